"""Features to compare samples and data by in `--mode=eval`: distance and direction of points from a center."""

import numpy as np
from small import small

from score_sde.config import ConfigDict


def polar(images: np.ndarray, x: float = 0.0) -> np.ndarray:
    """Distance and direction of points ``(n, 2)`` from ``(x, 0)``, as ``(n, 3)``; images are ``(n, H, W, C)``."""
    offset = images - np.array([x, 0.0], images.dtype)
    radius = np.linalg.norm(offset, axis=1, keepdims=True)
    return np.concatenate([radius, offset / np.maximum(radius, 1e-6)], axis=1)


def get_config() -> ConfigDict:
    """From the point (0.5, 0), with the Fréchet distance of 500 samples."""
    config = small()
    config.evaluation.extractor = "extractor:polar"
    config.evaluation.options.x = 0.5
    config.evaluation.num_samples = 500
    config.evaluation.metrics = ("frechet",)
    return config
