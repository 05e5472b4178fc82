r"""The Fréchet distance between Gaussians fitted to two sets (Dowson & Landau 1982; Heusel et al. 2017)."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean and covariance of a set of vectors, and the number of these."""

    mean: np.ndarray
    covariance: np.ndarray
    num_examples: int


def moments(x: np.ndarray) -> Moments:
    """Mean and unbiased covariance of ``(n, ...)`` in double precision, with the events flattened."""
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    mean = flat.mean(axis=0)
    centered = flat - mean
    return Moments(mean, centered.T @ centered / max(len(flat) - 1, 1), len(flat))


def frechet_distance(a: Moments, b: Moments) -> float:
    r"""``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})``.

    Square roots are taken through eigenvalues of symmetric matrices, so covariances may be singular, as those of fewer
    examples than dimensions are. The distance is squared, as is the custom.

    >>> one, two = (Moments(np.zeros(2), scale * np.eye(2), 10) for scale in (1.0, 4.0))
    >>> frechet_distance(one, two)  # two coordinates, each (2 - 1)^2
    2.0
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b.covariance @ root), 0.0)).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * overlap)
