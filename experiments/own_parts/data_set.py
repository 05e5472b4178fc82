"""A data set: any function that returns arrays."""

import numpy as np
from small import small

from score_sde.config import ConfigDict


def spiral(split: str, turns: float = 2.0, num_examples: int = 5000) -> np.ndarray:
    """Points on a spiral in the plane; the argument ``split`` is "train" or "test"."""
    rng = np.random.RandomState(0 if split == "train" else 1)
    angle = 2.0 * np.pi * turns * np.sqrt(rng.rand(num_examples))
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * angle[:, None] / (2.0 * np.pi * turns)
    return (points + 0.02 * rng.randn(num_examples, 2)).astype(np.float32)


def get_config() -> ConfigDict:
    """Three turns."""
    config = small()
    config.data.name = "data_set:spiral"
    config.data.options.turns = 3.0
    return config
