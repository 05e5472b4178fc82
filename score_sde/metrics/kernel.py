r"""The kernel distance (KID): a squared maximum mean discrepancy with a polynomial kernel (Bińkowski et al. 2018)."""

from typing import NamedTuple

import numpy as np

from score_sde.errors import UserError
from score_sde.metrics.checks import finite_rows, same_dimension
from score_sde.metrics.intervals import normal_interval
from score_sde.metrics.pairs import Kernel, mean_discrepancy


class KernelDistance(NamedTuple):
    """One distance, estimated twice: from all pairs, and as a mean over random subsets, as often reported."""

    value: float  # from all pairs; unbiased, so it may be negative
    std_error: float  # of value, over fresh examples on both sides
    std_error_samples: float  # of value, over fresh samples, the reference held
    low: float  # of the interval, from std_error
    high: float
    subset_mean: float
    subset_std: float  # the spread of the subsets, which is not an error of their mean
    num_subsets: int
    subset_size: int


def polynomial_kernel(degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> Kernel:
    """``(gamma x·y + coef0)^degree``, with ``gamma = 1/d`` unless it is given (Bińkowski et al. 2018, eq. 4).

    >>> polynomial_kernel()(np.array([[1.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]]))
    array([[8., 1.]])
    """

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return ((1.0 / x.shape[1] if gamma is None else gamma) * (x @ y.T) + coef0) ** degree

    return kernel


def kernel_distance(
    x: np.ndarray,
    y: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    confidence: float = 0.95,
) -> KernelDistance:
    r"""KID of samples ``x`` and reference ``y``, features ``(n, d)`` and ``(m, d)``, in double precision.

    ``value`` is the unbiased estimate over all pairs, which has the smallest error, with an interval for the distance
    of the two distributions. ``subset_mean`` and ``subset_std`` follow the protocol of torch-fidelity: subsets are
    drawn without replacement within, first of ``x``, then of ``y``, by NumPy's ``RandomState``; its default seed is
    2020. Both estimate the same number. Their means do not depend on n or m, because the estimates are unbiased.

    Raises:
        UserError: For features that are not finite or of different dimensions, and subsets larger than a set.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 4)), rng.normal(size=(300, 4))
    >>> same, other = (kernel_distance(z, y, num_subsets=5, subset_size=100) for z in (x, x + 1.0))
    >>> same.low < 0.0 < same.high < other.low
    True
    """
    x, y = finite_rows(x, "sample features"), finite_rows(y, "reference features")
    same_dimension(x, y, "features")
    if not 2 <= subset_size <= min(len(x), len(y)) or num_subsets < 1:
        raise UserError(
            f"{num_subsets} subsets of {subset_size} were asked for from {len(x)} samples and {len(y)} references; "
            f"expected one or more, of 2 to {min(len(x), len(y))}; give a smaller subset_size or more examples."
        )
    kernel = polynomial_kernel(degree, gamma, coef0)
    rng = np.random.RandomState(seed)
    subsets = []
    for _ in range(num_subsets):
        part_x = x[rng.choice(len(x), subset_size, replace=False)]
        part_y = y[rng.choice(len(y), subset_size, replace=False)]
        subsets.append(mean_discrepancy(part_x, part_y, kernel).value)
    whole = mean_discrepancy(x, y, kernel)
    return KernelDistance(
        *whole,
        *normal_interval(whole.value, whole.std_error, confidence),
        subset_mean=float(np.mean(subsets)),
        subset_std=float(np.std(subsets)),
        num_subsets=num_subsets,
        subset_size=subset_size,
    )
