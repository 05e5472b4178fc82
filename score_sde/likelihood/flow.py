r"""Exact likelihood through the probability-flow ODE.

With the drift ``h(x, t) = f x - g^2/2 score`` of the probability flow, the instantaneous change of variables (Chen et
al. 2018; Song et al. 2021, eq. 39) gives

    log p_{t0}(x(t0)) = log p_{t1}(x(t1)) + int_{t0}^{t1} div h(x(t), t) dt,

where ``p_{t1}`` is replaced by the prior. The data enter at ``t0`` as they are, so the value is the log-density of the
model at ``t0``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde.likelihood.divergence import ProbeKind, draw_probes, value_and_quadratic_forms
from score_sde.sdes import SDE
from score_sde.solvers.base import Solution
from score_sde.typing import Batch, Number, PRNGKey, Scalar, ScoreFn, Times


class Likelihood(NamedTuple):
    """Log-likelihoods in nats and their diagnostics, per example."""

    logp: Times
    latents: Batch
    num_evals: Int[Array, " batch"]
    success: Bool[Array, " batch"]
    probe_std_error: Times  # standard error of logp over the probes: 0 if exact, nan with a single probe


def log_likelihood(
    key: PRNGKey,
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    *,
    t0: Number = 1e-5,
    t1: Number = 1.0,
    rtol: Number = 1e-5,
    atol: Number = 1e-5,
    num_probes: int | None = 1,
    probe_kind: ProbeKind = "rademacher",
    terminal_logp: Callable[[Batch], Times] | None = None,
    max_steps: int = 4096,
    joint: bool = False,
) -> Likelihood:
    """Log-density of data under the probability flow of a score function.

    Args:
        key: Draws the probes; example ``i`` uses ``fold_in(key, i)``, frozen for its whole solve.
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Continuous data of shape ``(batch, *event)``.
        t0: Time at which the data enter.
        t1: Time of the prior.
        rtol: Relative tolerance of the adaptive solver.
        atol: Absolute tolerance.
        num_probes: Hutchinson probes per example, or ``None`` for the exact trace (``d`` directional derivatives).
        probe_kind: ``"rademacher"`` or ``"gaussian"``.
        terminal_logp: Log-density at ``t1``; the prior of the SDE unless given.
        max_steps: Bound on the solver's steps; an example that exceeds it has ``success = False``.
        joint: The same steps for the whole batch; see :func:`score_sde.solvers.adaptive.solve_ode`.

    Returns:
        Log-density in nats, latent code, number of evaluations, success and probe standard error, per example.

    >>> from score_sde.sdes import VP
    >>> sde, s = VP(), 0.5
    >>> def exact_score(x, t):
    ...     mean_coeff, std = sde.marginal(t)
    ...     return -x / (mean_coeff**2 * s**2 + std**2)[:, None]
    >>> result = log_likelihood(jax.random.key(0), sde, exact_score, jnp.zeros((1, 1)))
    >>> round(float(result.logp[0]), 3)  # -log(0.5 sqrt(2 pi)), but for the smoothing at t0
    -0.226
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(x.shape[0]))
    probes = jax.vmap(lambda k: draw_probes(k, num_probes, x.shape[1:], probe_kind))(keys)
    drift = probability_flow_drift(sde, score_fn)

    def augmented(t: Scalar, state: tuple[Array, Array], probe: Array) -> tuple[Array, Array]:
        return value_and_quadratic_forms(lambda z: drift(t, z), state[0], probe)

    start = (x, jnp.zeros(probes.shape[:2]))
    options = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "joint": joint}
    solution = _solve(augmented, start, probes, t0=t0, t1=t1, **options)
    latents, forms = solution.y
    change, error = _trace_and_error(forms, exact=num_probes is None)
    logp = (sde.prior_logp if terminal_logp is None else terminal_logp)(latents) + change
    return Likelihood(logp, latents, solution.num_evals, solution.success, error)


def probability_flow_drift(sde: SDE, score_fn: ScoreFn) -> Callable[[Scalar, Array], Array]:
    """The drift of the probability flow for one example, ``h(t, x)``."""
    process = sde.probability_flow(score_fn)
    return lambda t, x: process.drift(x[None], t)[0]


def transport(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    *,
    t0: Number,
    t1: Number,
    rtol: Number = 1e-5,
    atol: Number = 1e-5,
    max_steps: int = 4096,
    joint: bool = False,
) -> Solution:
    """Carry samples along the probability flow from ``t0`` to ``t1``: encode if ``t1 > t0``, decode otherwise.

    Tolerances, ``max_steps`` and ``joint`` are those of :func:`score_sde.solvers.adaptive.solve_ode`.
    """
    drift = probability_flow_drift(sde, score_fn)
    options = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "joint": joint}
    return _solve(lambda t, y, _: drift(t, y), x, None, t0=t0, t1=t1, **options)


def _solve(
    field: Callable[[Scalar, Any, Any], Any], y: Any, args: Any, *, t0: Number, t1: Number, **options: Any
) -> Any:
    """Integrate in ``u = sqrt(t)``, ``dt = 2 u du``.

    Near the data the drift of the VP flow grows like ``1 / sqrt(t)``, which a solver in ``t`` meets with many tiny
    steps; in ``u`` it is smooth. For the other processes the change is harmless.
    """
    from score_sde.solvers.adaptive import solve_ode  # keeps diffrax out of `import score_sde`

    def in_root_time(u: Scalar, y: Any, args: Any) -> Any:
        return jax.tree.map(lambda rate: 2.0 * u * rate, field(u**2, y, args))

    return solve_ode(in_root_time, y, args, t0=jnp.sqrt(t0), t1=jnp.sqrt(t1), **options)


def _trace_and_error(forms: Float[Array, "batch probes"], *, exact: bool) -> tuple[Times, Times]:
    count = forms.shape[1]
    if exact:
        return jnp.sum(forms, axis=1), jnp.zeros(forms.shape[0])
    if count == 1:
        return forms[:, 0], jnp.full(forms.shape[0], jnp.nan)
    return jnp.mean(forms, axis=1), jnp.std(forms, axis=1, ddof=1) / jnp.sqrt(count)
