r"""The Fréchet distance between Gaussians fitted to two sets (Dowson & Landau 1982; Heusel et al. 2017)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from score_sde.errors import UserError

#: Rows converted to double precision, or multiplied, at once.
_ROWS = 4096


class Moments(NamedTuple):
    """Mean and unbiased covariance of a set of vectors, and their number; 0 where a file does not state it."""

    mean: np.ndarray
    covariance: np.ndarray
    num_examples: int


class MomentsAccumulator:
    """Moments of a stream, in double precision whatever the type of the batches.

    Batches and accumulators are joined by the formula of Chan, Golub & LeVeque (1979, eq. 2.1),
    ``S = S_a + S_b + (n_a n_b / n) (m_b - m_a)(m_b - m_a)^T``, which subtracts no large numbers, so every host may
    accumulate its share and one host join them.

    >>> one, two = MomentsAccumulator(), MomentsAccumulator()
    >>> one.add(np.array([[0.0], [2.0]]))
    >>> two.add(np.array([[4.0]]))
    >>> one.merge(two)
    >>> one.moments()
    Moments(mean=array([2.]), covariance=array([[4.]]), num_examples=3)
    """

    def __init__(self) -> None:
        """Start empty."""
        self._num_examples = 0
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def add(self, batch: np.ndarray) -> None:
        """Add examples ``(n, ...)``; events are flattened.

        Raises:
            UserError: If their dimension differs from the earlier examples'.
        """
        for rows in _row_blocks(batch):
            rows = rows.reshape(len(rows), -1)
            mean = rows.mean(axis=0)
            centered = rows - mean
            self._join(len(rows), mean, centered.T @ centered)

    def merge(self, other: "MomentsAccumulator") -> None:
        """Add all examples of another accumulator."""
        self._join(other._num_examples, other._mean, other._scatter)

    def moments(self) -> Moments:
        """Mean and unbiased covariance of all examples so far.

        Raises:
            UserError: If there are none.
        """
        if self._num_examples == 0:
            raise UserError("Moments of no examples were asked for; expected at least one; add a batch first.")
        return Moments(self._mean, self._scatter / max(self._num_examples - 1, 1), self._num_examples)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if count == 0:
            return
        if self._num_examples == 0:
            self._num_examples, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if mean.shape != self._mean.shape:
            raise UserError(
                f"Examples of {mean.size} dimensions were given to moments of {self._mean.size}; expected the same "
                "for all."
            )
        total = self._num_examples + count
        gap = mean - self._mean
        self._scatter += scatter + np.outer(gap, gap) * (self._num_examples * count / total)
        self._mean = self._mean + gap * (count / total)
        self._num_examples = total


def moments(x: np.ndarray) -> Moments:
    """Mean and unbiased covariance of ``(n, ...)`` in double precision, with the events flattened."""
    accumulator = MomentsAccumulator()
    accumulator.add(x)
    return accumulator.moments()


def frechet_distance(a: Moments, b: Moments) -> float:
    r"""``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})`` (Dowson & Landau 1982, eq. 4).

    Square roots are taken through eigenvalues of symmetric matrices, and eigenvalues within rounding count as zero.
    Covariances may therefore be singular, as with fewer examples than dimensions, and the result is real. The distance
    is squared, by convention. It costs two eigendecompositions, some seconds each in 2048 dimensions.

    Raises:
        UserError: If the dimensions differ.

    >>> one, two = (Moments(np.zeros(2), scale * np.eye(2), 10) for scale in (1.0, 4.0))
    >>> frechet_distance(one, two)  # two coordinates, each (2 - 1)^2
    2.0
    """
    return FrechetTarget(a).distance(b)


class FrechetTarget:
    """One side of many Fréchet distances, decomposed once; each distance then costs eigenvalues only.

    >>> target = FrechetTarget(Moments(np.zeros(2), np.eye(2), 10))
    >>> target.distance(Moments(np.ones(2), np.eye(2), 10))
    2.0
    """

    def __init__(self, reference: Moments) -> None:
        """Decompose the covariance of the reference."""
        self.reference = reference
        values, vectors = np.linalg.eigh(reference.covariance)
        kept = values > _floor(values)
        self._factor = vectors[:, kept] * np.sqrt(values[kept])  # the covariance is factor @ factor.T

    def distance(self, sample: Moments) -> float:
        """The squared Fréchet distance to these moments."""
        values = np.linalg.eigvalsh(self._overlap(sample))
        gap = sample.mean - self.reference.mean
        traces = np.trace(sample.covariance) + np.trace(self.reference.covariance)
        return float(gap @ gap + traces - 2.0 * np.sqrt(values[values > _floor(values)]).sum())

    def influence(self, features: np.ndarray, sample: Moments) -> np.ndarray:
        r"""The first-order influence on the distance of each of the examples ``(n, d)`` with moments ``sample``.

        The derivative of the distance in the covariance ``C`` is ``I - T``, with
        ``T = R^{1/2} (R^{1/2} C R^{1/2})^{-1/2} R^{1/2}`` the optimal map from the sample's Gaussian to the reference's
        (Rippl, Munk & Sturm 2016, thm. 2.1). Example ``x`` therefore has the influence
        ``2 (m - m_r)·(x - m) + (x - m)^T (I - T) (x - m)`` minus its mean.

        Returns:
            Influences of mean zero, of shape ``(n,)``; their standard deviation over ``sqrt(n)`` is the standard error
            of the distance, the reference held.
        """
        values, vectors = np.linalg.eigh(self._overlap(sample))
        kept = values > _floor(values)
        half = self._factor @ (vectors[:, kept] * values[kept] ** -0.25)  # T is half @ half.T
        gap = 2.0 * (sample.mean - self.reference.mean)
        parts = []
        for rows in _row_blocks(features):
            centered = rows - sample.mean
            parts.append(centered @ gap + np.square(centered).sum(axis=1) - np.square(centered @ half).sum(axis=1))
        influence = np.concatenate(parts)
        return influence - influence.mean()

    def _overlap(self, sample: Moments) -> np.ndarray:
        if sample.mean.shape != self.reference.mean.shape:
            raise UserError(
                f"A Fréchet distance was asked for between {sample.mean.size} and {self.reference.mean.size} "
                "dimensions; expected the same; use features of one extractor."
            )
        return self._factor.T @ sample.covariance @ self._factor


def distances_without(
    features: np.ndarray, groups: np.ndarray, sample: Moments, distance: Callable[[Moments], float]
) -> Iterator[float]:
    """The distance of the examples without each group in turn, from the moments of all and of the group.

    Features are ``(n, d)``; the group of each example, from 0 on, is ``(n,)``.
    """
    for group in range(int(groups.max()) + 1):
        part = moments(features[groups == group])
        rest = sample.num_examples - part.num_examples
        mean = (sample.num_examples * sample.mean - part.num_examples * part.mean) / rest
        gap = part.mean - mean
        scatter = (sample.num_examples - 1) * sample.covariance - max(part.num_examples - 1, 0) * part.covariance
        scatter -= np.outer(gap, gap) * (part.num_examples * rest / sample.num_examples)
        yield distance(Moments(mean, scatter / max(rest - 1, 1), rest))


def _floor(values: np.ndarray) -> float:
    """The threshold below which an eigenvalue counts as rounding."""
    return float(max(values.max(initial=0.0), 0.0) * values.size * np.finfo(np.float64).eps)


def _row_blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(features), _ROWS):
        yield np.asarray(features[first : first + _ROWS], np.float64)
