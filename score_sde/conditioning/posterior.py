r"""Posterior scores: from a score of the data and an observation to a score of the data given the observation.

With ``y = A(x_0) + noise_std z`` Bayes' rule adds ``grad_x log p(y | x_t)`` to the score. Every method takes
``p(x_0 | x_t)`` for a Gaussian, with the denoised sample ``D`` as its mean and a covariance ``V`` of its own, so that

    grad_x log p(y | x_t) = J^T A^T (A V A^T + noise_std^2)^{-1} (y - A D),    J = dD / dx.

``"mmps"`` takes the covariance itself, ``V = (s^2 / m) J``, and is exact for Gaussian data. ``"pigdm"`` takes a
multiple of the identity, exact for independent values of one variance. ``"dps"`` takes ``V = 0``, as if the denoised
sample were certain. Its draws vary too little, and its gradient grows like ``1 / noise_std^2``, so that little noise
needs small steps; but it takes any differentiable function ``A``. ``"ddnm"`` is for exact observations: it replaces the
observed part of the denoised sample, and has no gradient.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.arguments import check_floats, not_fulfilled, not_whole, of_examples, rows, score_at
from score_sde.conditioning.operators import Linear, Observations, check_linear, linear, observed_shape
from score_sde.conditioning.solving import equilibrated, least_residuals, pseudo_inverse, solve_noisy
from score_sde.errors import UserError, refuse, unknown
from score_sde.processes import Process
from score_sde.typing import Batch, Number, ScoreFn, Times, expand_like, holds


class _Step(NamedTuple):
    """What a method sees of a batch at its times."""

    operator: Linear
    denoised: Array
    residual: Array  # y - A D
    pull: Linear  # J^T
    mean_coeff: Times
    std: Times
    variance: Any  # of the observations
    data_std: Number
    iterations: int


def _mmps(step: _Step) -> Batch:
    shape, operator = step.denoised.shape, linear(step.operator)
    spread = (step.std / step.mean_coeff) ** 2  # J is at most 1 / m where data are Gaussian, and V at most this
    scale, noise = equilibrated(step.variance, expand_like(spread, step.residual))

    def apply(p: Observations) -> tuple[Observations, Batch]:
        pulled = step.pull(operator.adjoint(scale * p, shape))
        covariance = expand_like(step.std**2 / step.mean_coeff, pulled) * pulled
        return scale * operator(covariance) + noise * p, pulled

    # Where noise is large the Jacobian of a network is mostly its error, and need not be a covariance.
    b, none = scale * step.residual, jnp.zeros_like(step.denoised)
    return least_residuals(apply, b, none, step.iterations, floor=noise)[1]


def _pigdm(step: _Step) -> Batch:
    shape, operator = step.denoised.shape, linear(step.operator)
    spread = step.std**2 / (step.std**2 + (step.mean_coeff * step.data_std) ** 2) * step.data_std**2
    return step.pull(operator.adjoint(solve_noisy(operator, step.residual, shape, spread, step.variance), shape))


def _dps(step: _Step) -> Batch:
    _, adjoint = jax.vjp(step.operator, step.denoised)
    return step.pull(adjoint(step.residual / step.variance)[0])


def _ddnm(step: _Step) -> Batch:
    missing = pseudo_inverse(linear(step.operator), step.residual, step.denoised.shape)
    return expand_like(step.mean_coeff / step.std**2, missing) * missing


class _Method(NamedTuple):
    """A method, what it asks of the noise, whether its operator must be linear, and its cost besides an evaluation."""

    gradient: Callable[[_Step], Batch]
    noise: Callable[[Any], Any]
    expected: str
    needs_linear: bool = True
    #: Products with the Jacobian of the score, each of about the cost of an evaluation, for a number of iterations.
    products: Callable[[int], int] = lambda iterations: 1


_ANY = (lambda std: std >= 0.0, "0 or more")
#: Methods by their names.
METHODS: Mapping[str, _Method] = MappingProxyType(
    {
        "mmps": _Method(_mmps, *_ANY, products=lambda iterations: iterations),
        "pigdm": _Method(_pigdm, *_ANY),
        "dps": _Method(_dps, lambda std: std > 0.0, "a number above 0, by which dps divides", needs_linear=False),
        "ddnm": _Method(
            _ddnm,
            lambda std: std == 0.0,
            "0, since ddnm takes observations as exact",
            products=lambda iterations: 0,
        ),
    }
)


def posterior_score(
    process: Process,
    score_fn: ScoreFn,
    operator: Callable[[Array], Array],
    y: Array,
    noise_std: Any,
    *,
    method: str = "mmps",
    iterations: int = 3,
    data_std: Number = 1.0,
) -> ScoreFn:
    r"""The score of the data given observations ``y = A(x_0) + noise_std z``, for any sampler or likelihood.

    Args:
        process: The forward process.
        score_fn: The score of its marginals.
        operator: ``A``, from a batch of examples to a batch of observations: any function, or a
            :class:`~score_sde.conditioning.operators.LinearOperator`.
        y: An observation for each example, or a single row for all.
        noise_std: Standard deviation of the noise, a number or an array of the shape of ``y``, where an axis may have
            length 1. Infinite noise leaves the score as it is.
        method: ``"mmps"``, moment matching (Rozet et al. 2024, arXiv 2405.13712, section 4.2): exact for Gaussian data
            after as many iterations as there are observations. ``"pigdm"``, pseudo-inverse guidance (Song et al. 2023,
            ICLR, section 3). ``"dps"``, posterior sampling with a nonlinear operator (Chung et al. 2023, arXiv
            2209.14687, eq. 16). ``"ddnm"``, the null space of exact observations (Wang et al. 2023, arXiv 2212.00490).
        iterations: Iterations of the linear solver of ``"mmps"``, which stays bounded where the Jacobian of a network
            is no covariance (:func:`~score_sde.conditioning.solving.least_residuals`). Each costs one product with the
            Jacobian of the score, about one more evaluation. ``experiments/conditioning/README.md`` says how far one,
            three and eight leave the law from the posterior.
        data_std: Standard deviation of the data, for ``"pigdm"``.

    Raises:
        UserError: For an unknown method, and noise or observations that are not numbers or not what the method takes;
            on evaluation, if the operator does not make observations of the shape of ``y``, or is not linear where the
            method needs it.

    >>> from score_sde import VP
    >>> from score_sde.parameterization import denoise
    >>> y, t = jnp.array([[3.0]]), jnp.array([0.3])
    >>> score = posterior_score(VP(), lambda x, t: -x, lambda x: x[:, :1], y, 0.5)  # of data N(0, I)
    >>> denoise(VP(), score, jnp.zeros((1, 2)), t).round(3).tolist()  # y s^2 / (s^2 + 0.25), and the prior's mean
    [[2.1..., 0.0]]
    """
    if method not in METHODS:
        raise unknown("method", str(method), METHODS)
    refuse(_problems(method, y, noise_std, iterations, data_std))
    check_floats(y, "observations")
    return _Posterior(process, score_fn, operator, y, noise_std, METHODS[method], iterations, data_std)


@dataclasses.dataclass(frozen=True, eq=False)
class _Posterior:
    process: Process
    score_fn: ScoreFn
    operator: Callable[[Array], Array]
    y: Array
    noise_std: Any
    method: _Method
    iterations: int
    data_std: Number
    seen: dict[tuple[int, ...], Any] = dataclasses.field(default_factory=dict)  # shapes that are checked already

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        mean_coeff, std = self.process.marginal(t)
        self._check(x.shape)

        def denoised(x: Batch) -> tuple[Batch, Batch]:
            score = score_at(self.score_fn, x, t)
            return (x + expand_like(std**2, x) * score) / expand_like(mean_coeff, x), score

        value, pull, score = jax.vjp(denoised, x, has_aux=True)
        noise_std = self.noise_std if jnp.ndim(self.noise_std) == 0 else jnp.asarray(self.noise_std, x.dtype)
        step = _Step(
            operator=self.operator,
            denoised=value,
            residual=jnp.asarray(self.y, x.dtype) - self.operator(value),
            pull=lambda cotangent: pull(cotangent)[0],
            mean_coeff=mean_coeff,
            std=std,
            variance=noise_std**2,
            data_std=self.data_std,
            iterations=self.iterations,
        )
        return score + self.method.gradient(step)

    def of_examples(self, indices: Array) -> "_Posterior":
        y, noise_std = rows(self.y, indices), rows(self.noise_std, indices)
        return dataclasses.replace(self, score_fn=of_examples(self.score_fn, indices), y=y, noise_std=noise_std)

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape in self.seen:
            return
        made = observed_shape(self.operator, shape)
        y = jnp.shape(self.y)
        if made[:1] != shape[:1] or y not in (made, (1, *made[1:])):
            raise UserError(
                f"The observations have shape {y}, and the operator makes {made} of a batch of shape {shape}; expected "
                f"{(shape[0], *made[1:])}, or {(1, *made[1:])} for one observation of all examples."
            )
        noise = jnp.shape(self.noise_std)
        if noise and any(size not in (1, whole) for size, whole in zip(noise, made, strict=True)):
            raise UserError(f"noise_std has shape {noise}; expected a number, or the shape {y} of y.")
        if self.method.needs_linear:
            check_linear(self.operator, shape)
        self.seen[shape] = True


def _problems(method: str, y: Any, noise_std: Any, iterations: Any, data_std: Any) -> Iterator[str]:
    noise = METHODS[method]
    yield from not_fulfilled("noise_std", noise_std, noise.noise, noise.expected)
    if jnp.ndim(noise_std) and jnp.ndim(noise_std) != jnp.ndim(y):
        yield f"noise_std has shape {jnp.shape(noise_std)}; expected a number, or the shape {jnp.shape(y)} of y."
    if not holds(np.isfinite, y):
        yield "Some observations are no finite numbers; expected finite ones, with noise_std infinite where unknown."
    yield from not_whole("iterations", iterations, 1)
    yield from not_fulfilled("data_std", data_std, lambda std: np.isfinite(std) & (std > 0.0), "a number above 0")
