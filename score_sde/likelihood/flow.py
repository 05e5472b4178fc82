r"""Exact likelihood through the probability-flow ODE.

With the drift ``h(x, t) = f x - g^2/2 score`` of the probability flow, the instantaneous change of variables (Chen et
al. 2018; Song et al. 2021, eq. 39) gives

    log p_{t0}(x(t0)) = log p_{t1}(x(t1)) + int_{t0}^{t1} div h(x(t), t) dt,

where ``p_{t1}`` is replaced by the prior. The data enter unchanged at ``t0``, so the value is the model's log-density
at ``t0``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from score_sde.arguments import as_data, check_floats, not_fulfilled, not_inner_time, of_examples, score_at
from score_sde.errors import UserError, refuse
from score_sde.fields import DEFAULTS
from score_sde.keys import example_keys, sample_noise
from score_sde.likelihood.divergence import ProbeKind, draw_probes, value_and_quadratic_forms
from score_sde.quantization import Quantization
from score_sde.sdes import SDE
from score_sde.solvers.base import Solution, check_drift
from score_sde.typing import Batch, Number, PRNGKey, Scalar, ScoreFn, Times, event_sum, expand_like, holds

TerminalLogp: TypeAlias = Callable[[Batch], Times]  #: the log-density at the end of the flow


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
    num_probes: int | None = DEFAULTS.likelihood.num_probes,
    probe_kind: ProbeKind = DEFAULTS.likelihood.probe_kind,
    terminal_logp: TerminalLogp | None = None,
    max_steps: int = DEFAULTS.sampling.max_steps,
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

    Raises:
        UserError: Unless ``0 < t0 < t1 <= 1``. If the data are whole numbers or empty, if the key is not a single key,
            if the scores differ in shape from the data, or if there are no probes or no steps.

    >>> from score_sde.sdes import VP
    >>> sde, s = VP(), 0.5
    >>> def exact_score(x, t):
    ...     mean_coeff, std = sde.marginal(t)
    ...     return -x / (mean_coeff**2 * s**2 + std**2)[:, None]
    >>> result = log_likelihood(jax.random.key(0), sde, exact_score, jnp.zeros((1, 1)))
    >>> round(float(result.logp[0]), 3)  # -log(0.5 sqrt(2 pi)), but for the smoothing at t0
    -0.226
    """
    refuse([*not_inner_time("t0", t0), *not_fulfilled("t1", t1, lambda t: (t > 0.0) & (t <= 1.0), "a time up to 1")])
    if not holds(np.less, t0, t1):
        raise UserError(f"t0 is {t0} and t1 is {t1}; expected the data to enter before the prior is reached.")
    x = as_data(x)
    keys = example_keys(key, x)
    probes = jax.vmap(lambda k: draw_probes(k, num_probes, x.shape[1:], probe_kind))(keys).astype(x.dtype)
    drift = probability_flow_drift(sde, score_fn)

    def augmented(t: Scalar, state: tuple[Array, Array], own: tuple[Array, Array]) -> tuple[Array, Array]:
        probe, index = own
        return value_and_quadratic_forms(lambda z: drift(t, z, index), state[0], probe)

    start = (x, jnp.zeros(probes.shape[:2], x.dtype))
    options = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "joint": joint}
    solution = _solve(augmented, start, (probes, jnp.arange(x.shape[0])), t0=t0, t1=t1, **options)
    latents, forms = solution.y
    evals, done = solution.num_evals, solution.success
    return finish(sde, latents, forms, evals, done, exact=num_probes is None, terminal_logp=terminal_logp)


def finish(
    sde: SDE,
    latents: Batch,
    forms: Float[Array, "batch probes"],
    num_evals: Int[Array, " batch"],
    success: Bool[Array, " batch"],
    *,
    exact: bool,
    terminal_logp: TerminalLogp | None,
) -> Likelihood:
    """Terminal density plus change of volume: the sum of the quadratic forms if exact, else their mean."""
    change, error = _trace_and_error(forms, exact=exact)
    logp = (sde.prior_logp if terminal_logp is None else terminal_logp)(latents) + change
    return Likelihood(logp, latents, num_evals, success, error)


def bits_per_dim(
    key: PRNGKey,
    sde: SDE,
    score_fn: ScoreFn,
    x: Array,
    *,
    quantization: Quantization,
    **options: Any,
) -> tuple[Times, Likelihood]:
    """Bits per dimension of dequantized images, and the underlying likelihood.

    Args:
        key: As in :func:`log_likelihood`.
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Images with noise in their bins, such as ``quantization.dequantize(key, levels)``; not under a trace.
        quantization: Number of gray levels and scale of the images.
        **options: As in :func:`log_likelihood`.

    Raises:
        UserError: If ``x`` are not images of this scale, or lack noise, so that their likelihood has no bound; see
            :meth:`Quantization.check`.

    >>> from score_sde.sdes import VP
    >>> sde, quantization = VP(), Quantization(num_grey_levels=4)
    >>> x = quantization.dequantize(jax.random.key(0), jnp.arange(4).reshape(1, 4))
    >>> bits, likelihood = bits_per_dim(jax.random.key(1), sde, lambda x, t: -x, x, quantization=quantization)
    >>> bool(jnp.isclose(bits[0], -jax.scipy.stats.norm.logpdf(x).sum() / (4 * jnp.log(2)) + 1, atol=1e-3))
    True
    """
    quantization.check(x)
    result = log_likelihood(key, sde, score_fn, x, **options)
    return quantization.bits_per_dim(result.logp, x[0].size), result


def decoder_term(key: PRNGKey, sde: SDE, score_fn: ScoreFn, x: Batch, t_min: Number) -> tuple[Batch, Times]:
    r"""Data with the noise of ``t_min``, and the term that turns their log-likelihood there into a bound for the data.

    With the Gaussian decoder ``N(x; E[x | x_t], (s/m)^2 I)`` at ``t = t_min`` (Song et al. 2021b, arXiv 2101.09258,
    appendix B.4) and ``n = -s score(x_t)``,

        -log p_0(x) <= E_z[-log p_t(m x + s z) + 1/2 (|n - z|^2 - |z|^2)] - d log m.

    Args:
        key: Draws the noise; example ``i`` uses ``fold_in(key, i)``.
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Continuous data.
        t_min: Time of the decoder.

    Returns:
        ``x_t``, and the term to add to ``-log p_t(x_t)``, in nats per example.

    Raises:
        UserError: If ``t_min`` is not a time between 0 and 1, if the data are whole numbers or empty, if the key is not
            a single key, or if the scores differ in shape from the data.

    >>> from score_sde.sdes import VP
    >>> xt, term = decoder_term(jax.random.key(0), VP(), lambda x, t: -x, jnp.zeros((1, 2)), 1e-5)
    >>> bool(jnp.abs(xt).max() < 0.01), bool(jnp.abs(term[0]) < 0.01)
    (True, True)
    """
    refuse(not_inner_time("t_min", t_min))
    x = as_data(x)
    t = jnp.full(x.shape[:1], t_min, x.dtype)
    noise = sample_noise(example_keys(key, x), x)
    mean_coeff, std = sde.marginal(t)
    xt = expand_like(mean_coeff, x) * x + expand_like(std, x) * noise
    predicted = -expand_like(std, x) * score_at(score_fn, xt, t)
    error = event_sum(predicted * (predicted - 2.0 * noise))
    return xt, 0.5 * error - x[0].size * jnp.log(mean_coeff)


def probability_flow_drift(sde: SDE, score_fn: ScoreFn) -> Callable[[Scalar, Array, Array], Array]:
    """The drift of the probability flow for one example and its index in the batch, ``h(t, x, index)``."""
    check_drift(sde)
    return lambda t, x, index: sde.probability_flow(of_examples(score_fn, index[None])).drift(x[None], t)[0]


def transport(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    *,
    t0: Number,
    t1: Number,
    rtol: Number = 1e-5,
    atol: Number = 1e-5,
    max_steps: int = DEFAULTS.sampling.max_steps,
    joint: bool = False,
) -> Solution:
    """Carry samples along the probability flow from ``t0`` to ``t1``: encode if ``t1 > t0``, decode otherwise.

    Tolerances, ``max_steps`` and ``joint`` are as in :func:`score_sde.solvers.adaptive.solve_ode`.

    Raises:
        UserError: If ``t0`` or ``t1`` is not a time from 0 to 1, if samples or scores are not floating-point numbers of
            one shape, or if there are no steps.
    """
    for name, t in {"t0": t0, "t1": t1}.items():
        refuse(not_fulfilled(name, t, lambda t: (t >= 0.0) & (t <= 1.0), "a time from 0, the data, to 1, the prior"))
    check_floats(x)
    drift = probability_flow_drift(sde, score_fn)
    options = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "joint": joint}
    return _solve(drift, x, jnp.arange(x.shape[0]), t0=t0, t1=t1, **options)


def _solve(
    field: Callable[[Scalar, Any, Any], Any], y: Any, args: Any, *, t0: Number, t1: Number, **options: Any
) -> Any:
    """Integrate in ``u = sqrt(t)``, ``dt = 2 u du``.

    Near the data the drift of the VP flow grows like ``1 / sqrt(t)``, for which a solver in ``t`` needs many tiny
    steps; in ``u`` it is smooth. For the other processes the change is harmless.
    """
    from score_sde.solvers.adaptive import solve_ode  # keeps diffrax out of `import score_sde`

    def in_root_time(u: Scalar, y: Any, args: Any) -> Any:
        return jax.tree.map(lambda rate: 2.0 * u * rate, field(u**2, y, args))

    return solve_ode(in_root_time, y, args, t0=jnp.sqrt(t0), t1=jnp.sqrt(t1), **options)


def _trace_and_error(forms: Float[Array, "batch probes"], *, exact: bool) -> tuple[Times, Times]:
    count = forms.shape[1]
    if exact:
        return jnp.sum(forms, axis=1), jnp.zeros_like(forms[:, 0])
    if count == 1:
        return forms[:, 0], jnp.full_like(forms[:, 0], jnp.nan)
    return jnp.mean(forms, axis=1), jnp.std(forms, axis=1, ddof=1) / jnp.sqrt(count)
