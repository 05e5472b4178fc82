r"""Discrete forward chains, whose limits are the SDEs: DDPM and NCSN, their schedules and how to choose them.

A chain is a :class:`~score_sde.processes.Process` whose marginals are tables over its levels, with the dtype of the
requested time. Code that needs marginals alone (losses, ancestral sampling, DDIM, exponential integrators, correctors)
therefore accepts a chain in place of an SDE. Times between levels belong to the nearest one.
"""

import abc
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.errors import UserError, refuse
from score_sde.fields import DEFAULTS
from score_sde.processes import Marginal, Process, Transition
from score_sde.typing import Number, Time, component, holds, is_known

Levels = Float[Array, " levels"]  #: a number for each level, from the least noise to the most
_SDE = DEFAULTS.sde


class Chain(Process):
    """The contract of a chain: the number of its levels, and their times."""

    @property
    @abc.abstractmethod
    def num_levels(self) -> int:
        """Number ``N`` of noise levels."""

    @property
    @abc.abstractmethod
    def times(self) -> Levels:
        """The times of the levels, ascending to 1."""


@component
class DDPM(Chain):
    r"""The chain of Sohl-Dickstein et al. 2015 and Ho et al. 2020: ``x_i = sqrt(1 - b_i) x_{i-1} + sqrt(b_i) z``.

    Level ``i = 1 ... N`` is at time ``i / N`` and the data at 0. With ``a_i = prod_{j <= i} (1 - b_j)`` the marginal is
    ``N(sqrt(a_i) x_0, (1 - a_i) I)`` (Ho et al. 2020, arXiv 2006.11239, eq. 4). The prior is ``N(0, I)``.

    >>> chain = DDPM(betas=linear_betas(1000))
    >>> round(float(chain.marginal(jnp.array(1.0)).mean_coeff), 5)
    0.00635

    Attributes:
        betas: Variances ``b_1 ... b_N`` of the steps, each between 0 and 1.
    """

    betas: Levels

    def problems(self) -> Iterator[str]:
        """Sentences about invalid variances."""
        if not holds(lambda betas: betas.size > 0, self.betas):
            yield "There are no betas; expected at least one."
        elif not holds(lambda betas: (betas > 0.0) & (betas < 1.0), self.betas):
            betas = np.asarray(self.betas)
            yield (
                f"The {betas.size} betas lie between {betas.min():g} and {betas.max():g}; expected more than 0 and "
                "less than 1. The chain of an SDE needs more than beta_max levels."
            )

    @property
    def num_levels(self) -> int:
        """Number of betas."""
        return self.betas.shape[0]

    @property
    def times(self) -> Levels:
        """``i / N``."""
        return (1.0 + jnp.arange(self.num_levels)) / self.num_levels

    def _log_alpha(self, t: Time) -> "_Sum":
        """``log a_i`` at the level nearest to ``t``, 0 at the data."""
        table = _running_sums(jnp.log1p(-self.betas))
        index = jnp.round(t * self.num_levels).astype(jnp.int32)
        return _Sum(table.value[index], table.rest[index])

    def marginal(self, t: Time) -> Marginal:
        """``(sqrt(a), sqrt(1 - a))``."""
        log_alpha = self._log_alpha(t).value.astype(t.dtype)
        return Marginal(jnp.exp(0.5 * log_alpha), jnp.sqrt(-jnp.expm1(log_alpha)))

    @property
    def prior_std(self) -> Number:
        """One."""
        return 1.0

    def log_snr(self, t: Time) -> Time:
        """``log a - log(1 - a)``."""
        log_alpha = self._log_alpha(t).value.astype(t.dtype)
        return log_alpha - jnp.log(-jnp.expm1(log_alpha))

    def transition(self, s: Time, t: Time) -> Transition:
        """Any number of steps at once: ``(sqrt(a_t / a_s), sqrt(1 - a_t / a_s))``; a single one with its own beta."""
        end, start = self._log_alpha(t), self._log_alpha(s)
        log_ratio = ((end.value - start.value) + (end.rest - start.rest)).astype(t.dtype)
        return Transition(jnp.exp(0.5 * log_ratio), jnp.sqrt(-jnp.expm1(log_ratio)))


@component
class NCSN(Chain):
    r"""The noise levels of Song & Ermon 2019: ``x_i = x_{i-1} + sqrt(s_i^2 - s_{i-1}^2) z``.

    The marginal is ``N(x_0, s_i^2 I)`` and the prior ``N(0, s_N^2 I)``. Level ``i = 1 ... N`` is at time
    ``(i - 1) / (N - 1)``: like the VE SDE the chain does not reach the data, which count as smoothed by the smallest
    noise.

    >>> chain = NCSN(sigmas=geometric_sigmas(3, 0.01, 1.0))
    >>> [round(float(std), 4) for std in chain.marginal(chain.times).std]
    [0.01, 0.1, 1.0]

    Attributes:
        sigmas: Noise levels, ascending.
    """

    sigmas: Levels

    def problems(self) -> Iterator[str]:
        """Sentences about noise levels that are invalid or do not ascend."""
        yield from _no_ascent("sigmas", self.sigmas)

    @property
    def num_levels(self) -> int:
        """Number of sigmas."""
        return self.sigmas.shape[0]

    @property
    def times(self) -> Levels:
        """``(i - 1) / (N - 1)``."""
        return jnp.linspace(0.0, 1.0, self.num_levels)

    def marginal(self, t: Time) -> Marginal:
        """``(1, s_i)`` at the level nearest to ``t``."""
        index = jnp.round(t * (self.num_levels - 1)).astype(jnp.int32)
        return Marginal(jnp.ones_like(t), self.sigmas[index].astype(t.dtype))

    def transition(self, s: Time, t: Time) -> Transition:
        """``(1, sqrt(s(t)^2 - s(s)^2))``, factored so that neighboring levels keep their digits."""
        low, high = self.marginal(s).std, self.marginal(t).std
        return Transition(jnp.ones_like(high), jnp.sqrt((high - low) * (high + low)))

    @property
    def prior_std(self) -> Number:
        """The largest noise level."""
        return self.sigmas[-1]


@component
class Tabulated(Chain):
    """The Markov chain that visits given marginals, such as an SDE's without a chain of its own.

    Level ``i = 1 ... N`` is at time ``i / N`` and the data at 0.

    Attributes:
        mean_coeffs: ``m`` of every level.
        stds: ``s`` of every level, in proportion to ``m`` ascending.
        prior_std: Std of the prior.
    """

    mean_coeffs: Levels
    stds: Levels
    prior_std: Number = 1.0  # pyright: ignore[reportIncompatibleMethodOverride] -- a field for a property

    def problems(self) -> Iterator[str]:
        """Sentences about invalid marginals, or noise that does not ascend in proportion to the remaining data."""
        if not holds(lambda means, stds: means.shape == stds.shape, self.mean_coeffs, self.stds):
            yield f"There are {self.mean_coeffs.size} mean_coeffs and {self.stds.size} stds; expected as many."
        elif not holds(_positive, self.mean_coeffs):
            yield "Some of mean_coeffs is not above 0 and finite; expected what is left of the data at each level."
        elif is_known(self.mean_coeffs, self.stds):
            yield from _no_ascent("stds / mean_coeffs", np.asarray(self.stds) / np.asarray(self.mean_coeffs))
        if not holds(_positive, self.prior_std):
            yield f"prior_std is {self.prior_std}; expected a number above 0."

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return self.stds.shape[0]

    @property
    def times(self) -> Levels:
        """``i / N``."""
        return (1.0 + jnp.arange(self.num_levels)) / self.num_levels

    def marginal(self, t: Time) -> Marginal:
        """The entries of the level nearest to ``t``."""
        index = jnp.round(t * self.num_levels).astype(jnp.int32)
        mean_coeffs, stds = (
            jnp.concatenate([jnp.full(1, first, table.dtype), table]).astype(t.dtype)
            for first, table in ((1.0, self.mean_coeffs), (0.0, self.stds))
        )
        return Marginal(mean_coeffs[index], stds[index])


def _positive(values: np.ndarray) -> Any:
    """Which numbers are above 0 and finite."""
    return (values > 0.0) & np.isfinite(values)


def _no_ascent(name: str, levels: Any) -> Iterator[str]:
    """The sentence about noise levels that are invalid or do not ascend."""
    if not holds(lambda levels: levels.size > 0, levels):
        yield f"There are no {name}; expected at least one level."
    elif not holds(_positive, levels):
        values = np.asarray(levels)
        yield f"The {name} lie between {values.min():g} and {values.max():g}; expected all above 0, and finite."
    elif not holds(lambda levels: np.diff(levels) > 0.0, levels):
        values = np.asarray(levels)
        fall = int(np.argmin(np.diff(values)))
        yield f"Of {name}, {values[fall]:g} comes before {values[fall + 1]:g}; expected them to ascend."


def _check_schedule(n: int, **bounds: Number) -> None:
    """Refuse a schedule without levels, and bounds that are not positive.

    Raises:
        UserError: With every problem.
    """
    problems = [] if holds(lambda n: n >= 1, n) else [f"n is {n}; expected at least one level."]
    wrong = {name: value for name, value in bounds.items() if not holds(_positive, value)}
    refuse(problems + [f"{name} is {value}; expected a number above 0." for name, value in wrong.items()])


def _check_sigmas(n: int, sigma_min: Number, sigma_max: Number) -> None:
    _check_schedule(n, sigma_min=sigma_min, sigma_max=sigma_max)
    if not holds(np.less, sigma_min, sigma_max):
        raise UserError(f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; expected the first to be smaller.")


class _Sum(NamedTuple):
    """A sum in two numbers: the rounded sum and its rounding error."""

    value: Array
    rest: Array


def _running_sums(terms: Levels) -> _Sum:
    """The sums of the first 0, 1, ... terms, with twice the digits: differences of neighbors are the terms again."""

    def add(a: _Sum, b: _Sum) -> _Sum:
        value = a.value + b.value
        part = value - a.value  # Knuth's two-sum: the exact rounding error
        lost = (a.value - (value - part)) + (b.value - part)
        rest = lost + (a.rest + b.rest)
        total = value + rest
        return _Sum(total, rest - (total - value))

    sums = jax.lax.associative_scan(add, _Sum(terms, jnp.zeros_like(terms)))
    return jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros(1, leaf.dtype), leaf]), sums)


def linear_betas(n: int, start: float = 1e-4, end: float = 0.02) -> Levels:
    """Ho et al. 2020, section 4: from ``start`` to ``end`` in equal steps."""
    _check_schedule(n, start=start, end=end)
    return jnp.linspace(start, end, n)


def quadratic_betas(n: int, start: float = 1e-4, end: float = 0.02) -> Levels:
    """Square roots in equal steps."""
    _check_schedule(n, start=start, end=end)
    return jnp.linspace(math.sqrt(start), math.sqrt(end), n) ** 2


def constant_betas(n: int, start: float = 1e-4, end: float = 0.02) -> Levels:
    """All equal to ``end``."""
    _check_schedule(n, end=end)
    del start
    return jnp.full(n, end)


def jsd_betas(n: int, start: float = 1e-4, end: float = 0.02) -> Levels:
    """``1 / (N - i + 1)``, which destroys the data at an even pace (Sohl-Dickstein et al. 2015, section 2.4.1)."""
    _check_schedule(n)
    del start, end
    # The last would be 1, and leave nothing of the data to divide by.
    return jnp.minimum(1.0 / jnp.linspace(n, 1, n), 1.0 - 1e-4)


def cosine_betas(n: int, start: float = 1e-4, end: float = 0.02) -> Levels:
    """``a_i`` proportional to ``cos^2((i / N + 0.008) / 1.008 pi / 2)`` (Nichol & Dhariwal 2021, eq. 17)."""
    _check_schedule(n)
    del start, end
    alphas = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
    return jnp.asarray(np.minimum(1.0 - alphas[1:] / alphas[:-1], 0.999), jnp.float32)


#: Schedules ``(n, start, end) -> betas`` by name.
BETAS: Mapping[str, Callable[[int, float, float], Levels]] = MappingProxyType(
    {
        "linear": linear_betas,
        "cosine": cosine_betas,
        "quad": quadratic_betas,
        "const": constant_betas,
        "jsd": jsd_betas,
    }
)


def geometric_sigmas(n: int, sigma_min: float = _SDE.sigma_min, sigma_max: float = _SDE.sigma_max) -> Levels:
    """Equal ratios, ascending (Song & Ermon 2019)."""
    _check_sigmas(n, sigma_min, sigma_max)
    return jnp.asarray(np.geomspace(sigma_min, sigma_max, n), jnp.float32)


def uniform_sigmas(n: int, sigma_min: float = _SDE.sigma_min, sigma_max: float = _SDE.sigma_max) -> Levels:
    """Equal differences, ascending."""
    _check_sigmas(n, sigma_min, sigma_max)
    return jnp.linspace(sigma_min, sigma_max, n)


#: Noise levels ``(n, sigma_min, sigma_max) -> sigmas`` by name.
SIGMAS: Mapping[str, Callable[[int, float, float], Levels]] = MappingProxyType(
    {"geometric": geometric_sigmas, "uniform": uniform_sigmas}
)


def largest_distance(data: np.ndarray, *, block: int = 1024) -> float:
    """The largest Euclidean distance between two examples: the ``sigma_max`` of NCSNv2 (technique 1).

    Song & Ermon 2020, arXiv 2006.09011. Costs the square of their number; a random few thousand do.

    >>> largest_distance(np.array([[0.0], [3.0], [1.0]]))
    3.0

    Args:
        data: Examples, scaled as the network will see them, shape ``(n, *event)``.
        block: Number of rows of distances held at once.
    """
    flat = np.asarray(data, np.float64).reshape(len(data), -1)
    squares = np.sum(flat**2, axis=1)
    largest = 0.0
    for start in range(0, len(flat), block):
        rows = slice(start, start + block)
        distances = squares[rows, None] + squares[None] - 2.0 * flat[rows] @ flat.T
        largest = max(largest, float(distances.max()))
    return math.sqrt(largest)


def noise_ratio(dim: int, overlap: float = 0.567) -> float:
    r"""The ratio of neighboring noise levels of NCSNv2 (technique 2), for ``dim`` dimensions.

    It solves ``Phi(sqrt(2 d)(r - 1) + 3 r) - Phi(sqrt(2 d)(r - 1) - 3 r) = overlap``, the part of the samples of one
    level that lie in the shell of the next. The paper asks for about 0.5; its four published sets of levels all have
    0.567.
    """

    def covered(ratio: float) -> float:
        center, width = math.sqrt(2.0 * dim) * (ratio - 1.0), 3.0 * ratio
        return 0.5 * (math.erf((center + width) / math.sqrt(2.0)) - math.erf((center - width) / math.sqrt(2.0)))

    low, high = 1.0, 2.0 + 100.0 / dim
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if covered(middle) > overlap else (low, middle)
    return low


def num_noise_levels(dim: int, sigma_min: float = _SDE.sigma_min, sigma_max: float = _SDE.sigma_max) -> int:
    """The number of geometric levels with the ratio :func:`noise_ratio`.

    >>> num_noise_levels(3 * 32 * 32, 0.01, 50.0)  # CIFAR-10
    232
    """
    return round(1.0 + math.log(sigma_max / sigma_min) / math.log(noise_ratio(dim)))


def langevin_step(ratio: float, num_steps: int, sigma_min: float = _SDE.sigma_min) -> float:
    r"""The step size ``e`` of annealed Langevin dynamics in NCSNv2 (technique 4): ``e s_i^2 / s_1^2`` at level ``i``.

    After ``T`` steps at a level the variance should equal the level's. With ``q = 1 - e / s_1^2`` their ratio is
    ``q^{2T} (r^2 - c) + c``, ``c = 2 e / (s_1^2 (1 - q^2))`` (Song & Ermon 2020, proposition 3); ``e`` brings it
    closest to 1. As :class:`~score_sde.solvers.AnnealedLangevin` counts, ``snr = sqrt(e / 2) / s_1``.

    >>> f"{langevin_step(noise_ratio(3 * 32 * 32), 5):.1e}"  # 6.2e-6 for CIFAR-10
    '6.2e-06'

    Args:
        ratio: Ratio of neighboring levels.
        num_steps: Langevin steps ``T`` per level.
        sigma_min: Smallest noise ``s_1``.
    """
    if not ratio > 1.0 or num_steps < 1:
        raise UserError(f"ratio is {ratio} and num_steps {num_steps}; expected more than 1, and at least 1.")
    steps = np.geomspace(1e-6, 1.0 - 1e-9, 200_001)  # e / s_1^2; at 1 one step forgets the past
    q = 1.0 - steps
    stationary = 2.0 * steps / (1.0 - q**2)
    gap = np.abs(q ** (2 * num_steps) * (ratio**2 - stationary) + stationary - 1.0)
    return float(steps[np.argmin(gap)]) * sigma_min**2
