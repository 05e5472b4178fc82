r"""The probability-flow likelihood on a fixed grid: a fresh probe at every time, and the log-density of samples.

With ``y = x / m``, ``l = log(s / m)`` and the noise ``n = -s score`` the probability flow of every process is
``dy = e^l n dl``. Along the grid ``n`` is a polynomial through its newest values, whose integral against ``e^l`` is
exact (an exponential Adams method): it predicts the next sample, and with the noise found there corrects it, at one
evaluation per time. In the same variable

    log p_s(x_s) = log p_t(x_t) + d log(m_t / m_s) + int_{l_s}^{l_t} tr(e^l dn/dy) dl,

whose integrand goes from 0 at the data to ``d`` at the prior and is flat at both ends.

The sample does not depend on the probes of the trace, so each time may have fresh probes. Their errors average out
along the path, whereas a probe frozen for a whole solve keeps its error: on the correlated Gaussian of
``experiments/likelihood/README.md`` the probe error is 4.5 times smaller at 72 evaluations.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arguments import as_data, check_samples, not_whole, of_examples, score_at
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.keys import example_keys
from score_sde.likelihood.divergence import ProbeKind, draw_probes, value_and_quadratic_forms
from score_sde.likelihood.flow import Likelihood, TerminalLogp, finish
from score_sde.sdes import SDE
from score_sde.solvers.pairing import check_times
from score_sde.typing import Batch, PRNGKey, SampleKeys, Scalar, ScoreFn, holds, time_dtype

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)  # exact to rounding for a step times a polynomial
_CUBIC = 4  # points of the interpolant in the quadrature of the divergence


def log_likelihood_on_grid(
    key: PRNGKey,
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    times: Float[Array, " points"],
    *,
    order: int = DEFAULTS.likelihood.order,
    num_probes: int | None = DEFAULTS.likelihood.num_probes,
    probe_kind: ProbeKind = DEFAULTS.likelihood.probe_kind,
    fresh_probes: bool = DEFAULTS.likelihood.fresh_probes,
    terminal_logp: TerminalLogp | None = None,
) -> Likelihood:
    """Log-density of data under the probability flow of a score function, along a grid of times.

    Args:
        key: Draws the probes; example ``i`` uses ``fold_in(key, i)``.
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Continuous data of shape ``(batch, *event)``.
        times: Grid from 1 down to the time at which the data enter, such as
            :func:`score_sde.sampling.log_snr_times`; one evaluation for each.
        order: Number of noise values that the predictor interpolates, 1 to 5. The corrector adds one.
        num_probes: Hutchinson probes per example and time, or ``None`` for the exact trace.
        probe_kind: ``"rademacher"`` or ``"gaussian"``.
        fresh_probes: Whether to draw new probes at every time; else all times share them.
        terminal_logp: Log-density at ``times[0]``; the prior of the SDE unless given.

    Returns:
        As :func:`score_sde.likelihood.log_likelihood`; ``success`` says that the result is finite.

    Raises:
        UserError: If there are fewer than two times, if they do not decrease from 1 (or, with ``terminal_logp``, any
            time) to above 0, if the order is not 1 to 5, if the data are whole numbers or empty, if the key is not a
            single key, or if the scores differ in shape from the data.

    >>> from score_sde.sampling import log_snr_times
    >>> from score_sde.sdes import VP
    >>> sde, s = VP(), 0.5
    >>> def exact_score(x, t):
    ...     mean_coeff, std = sde.marginal(t)
    ...     return -x / (mean_coeff**2 * s**2 + std**2)[:, None]
    >>> result = log_likelihood_on_grid(
    ...     jax.random.key(0), sde, exact_score, jnp.zeros((1, 1)), log_snr_times(sde, 40, 1e-5))
    >>> round(float(result.logp[0]), 3)  # -log(0.5 sqrt(2 pi))
    -0.226
    """
    _check_grid(sde, times, order, from_prior=terminal_logp is None)
    x = as_data(x)
    keys = example_keys(key, x)
    options = {"num_probes": num_probes, "probe_kind": probe_kind, "fresh_probes": fresh_probes}
    latents, forms = _carry(keys, sde, score_fn, x, times[::-1], order=order, **options)
    done = jnp.isfinite(forms).all(axis=1) & jnp.isfinite(latents.reshape(x.shape[0], -1)).all(axis=1)
    evals = jnp.full(x.shape[:1], times.shape[0])
    return finish(sde, latents, forms, evals, done, exact=num_probes is None, terminal_logp=terminal_logp)


def sample_with_log_density(
    keys: SampleKeys,
    sde: SDE,
    score_fn: ScoreFn,
    start: Batch,
    times: Float[Array, " points"],
    *,
    order: int = DEFAULTS.likelihood.order,
    num_probes: int | None = DEFAULTS.likelihood.num_probes,
    probe_kind: ProbeKind = DEFAULTS.likelihood.probe_kind,
    fresh_probes: bool = DEFAULTS.likelihood.fresh_probes,
) -> Likelihood:
    """Samples of the probability flow with their log-densities, from the same evaluations.

    Args:
        keys: One key per sample, which draws its probes.
        sde: The forward process.
        score_fn: The score of its marginals.
        start: Draws from the prior, such as :func:`score_sde.sampling.prior_samples`.
        times: Grid from 1 down to the time of the samples.
        order: As in :func:`log_likelihood_on_grid`, like the rest.
        num_probes: Hutchinson probes per sample and time, or ``None`` for the exact trace.
        probe_kind: ``"rademacher"`` or ``"gaussian"``.
        fresh_probes: Whether to draw new probes at every time; else all times share them.

    Returns:
        A :class:`Likelihood` whose ``latents`` are the samples at ``times[-1]`` and ``logp`` their log-densities there.

    Raises:
        UserError: As :func:`log_likelihood_on_grid`, and if there is not one key per sample.
    """
    _check_grid(sde, times, order, from_prior=True)
    check_samples(keys, start)
    options = {"num_probes": num_probes, "probe_kind": probe_kind, "fresh_probes": fresh_probes}
    x, forms = _carry(keys, sde, score_fn, start, times, order=order, **options)
    done = jnp.isfinite(forms).all(axis=1) & jnp.isfinite(x.reshape(x.shape[0], -1)).all(axis=1)
    logp = sde.prior_logp(start)
    # Path and change of the log-density are the likelihood's, run backwards.
    moved = finish(
        sde,
        x,
        forms,
        jnp.full(x.shape[:1], times.shape[0]),
        done,
        exact=num_probes is None,
        terminal_logp=lambda _: jnp.zeros_like(logp),
    )
    return moved._replace(logp=logp - moved.logp)


def _check_grid(sde: SDE, times: Float[Array, " points"], order: int, *, from_prior: bool) -> None:
    """Refuse a grid that is invalid for likelihoods, as far as it can be read.

    Raises:
        UserError: With every problem.
    """
    if times.shape[0] < 2 or list(not_whole("order", order, 1, 5)):
        raise UserError(f"There are {times.shape[0]} times and the order is {order}; expected 2 or more, and 1 to 5.")
    if not holds(lambda times: times > 0.0, times):
        raise UserError(
            f"The smallest time is {np.asarray(times).min()}; expected a positive one, where data are noisy."
        )
    check_times(sde, times)
    if from_prior and not holds(lambda times: np.abs(times[0] - 1.0) < 1e-6, times):
        raise UserError(
            f"The first time of the grid is {np.asarray(times)[0]:g}; expected 1, the time of the prior, or "
            "terminal_logp, the log-density at another."
        )


def _carry(
    keys: SampleKeys,
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    times: Float[Array, " points"],
    *,
    order: int,
    num_probes: int | None,
    probe_kind: ProbeKind,
    fresh_probes: bool,
) -> tuple[Batch, Float[Array, "batch probes"]]:
    """Samples at the last time, and the change of volume along the path: per probe, or per axis for the exact trace."""
    event, dim, times = x.shape[1:], x[0].size, times.astype(time_dtype(x))
    place = -0.5 * sde.log_snr(times)
    mean_coeff = sde.marginal(times).mean_coeff
    predict, correct = _adams_weights(place, order)
    weight = _quadrature_weights(place).astype(x.dtype)

    def evaluate(y: Batch, index: Array) -> tuple[Batch, Float[Array, "batch probes"]]:
        m, scale = mean_coeff[index], jnp.exp(place[index])

        def noise(y: Array, example: Array) -> Array:
            t, own_score = times[index], of_examples(score_fn, example[None])
            return -(sde.marginal(t).std * score_at(own_score, (m * y)[None], t[None])[0])

        def single(key: PRNGKey, y: Array, example: Array) -> tuple[Array, Array]:
            own = jax.random.fold_in(key, index) if fresh_probes else key
            probes = draw_probes(own, num_probes, event, probe_kind).astype(y.dtype)
            value, forms = value_and_quadratic_forms(lambda y: noise(y, example), y, probes)
            return value, scale * forms

        return jax.vmap(single)(keys, y, jnp.arange(y.shape[0]))

    def step(carry: tuple[Batch, Array, Array], index: Array) -> tuple[tuple[Batch, Array, Array], None]:
        y, past, total = carry
        ahead = y + jnp.tensordot(predict[index], past, axes=1)
        noise, forms = evaluate(ahead, index + 1)
        nodes = jnp.concatenate([noise[None], past])
        y = y + jnp.tensordot(correct[index], nodes, axes=1)
        return (y, nodes[:order], total + weight[index + 1] * forms), None

    y = x / mean_coeff[0]
    noise, forms = evaluate(y, jnp.asarray(0))
    past = jnp.concatenate([noise[None], jnp.zeros((order - 1, *x.shape), x.dtype)])
    (y, _, total), _ = jax.lax.scan(step, (y, past, weight[0] * forms), jnp.arange(times.shape[0] - 1))
    shift = jnp.log(mean_coeff[-1] / mean_coeff[0]) * (1.0 if num_probes is None else dim)
    return mean_coeff[-1] * y, total + shift


def _adams_weights(place: Float[Array, " points"], order: int) -> tuple[Array, Array]:
    """The weights of the newest ``order`` noise values in each step, without and with the value at its end in front.

    The first steps have fewer values; the weights of missing ones are zero.
    """
    steps = place.shape[0] - 1
    predict, correct = [], []
    for index in range(min(steps, order)):  # the start, with a growing past
        known = place[: index + 1][::-1]
        ends = place[index], place[index + 1]
        for rows, nodes, width in (
            (predict, known, order),
            (correct, jnp.concatenate([place[index + 1 : index + 2], known]), order + 1),
        ):
            weights = _interpolation_weights(nodes, *ends, exponential=True)
            rows.append(jnp.pad(weights, (0, width - weights.shape[0])))
    if steps > order:
        later = jnp.arange(order, steps)
        nodes = place[later[:, None] + 1 - jnp.arange(order + 1)[None]]  # the end, and the past, newest first
        weigh = jax.vmap(lambda n, a, b: _interpolation_weights(n, a, b, exponential=True))
        predict.extend(weigh(nodes[:, 1:], place[later], place[later + 1]))
        correct.extend(weigh(nodes, place[later], place[later + 1]))
    return jnp.stack(predict), jnp.stack(correct)


def _quadrature_weights(place: Float[Array, " points"]) -> Float[Array, " points"]:
    """Weights of the values at the points in the integral of their piecewise cubic interpolant."""
    count = place.shape[0]
    width = min(_CUBIC, count)
    first = np.clip(np.arange(count - 1) - 1, 0, count - width)
    nodes = first[:, None] + np.arange(width)[None]
    weigh = jax.vmap(lambda n, a, b: _interpolation_weights(n, a, b, exponential=False))
    return jnp.zeros(count, place.dtype).at[nodes].add(weigh(place[nodes], place[:-1], place[1:]))


def _interpolation_weights(nodes: Array, start: Scalar, end: Scalar, *, exponential: bool) -> Array:
    """The integral from ``start`` to ``end`` of each Lagrange polynomial of the nodes, times ``e^l`` if exponential."""
    count = nodes.shape[0]
    points = start + (end - start) * jnp.asarray((1.0 + _NODES) / 2.0, nodes.dtype)
    density = jnp.asarray(0.5 * _WEIGHTS, nodes.dtype) * (end - start)
    if exponential:
        density = density * jnp.exp(points)
    # Distances are in units of the step, so that no product of them overflows.
    gaps = (nodes[:, None] - nodes[None]) / (end - start) + jnp.eye(count, dtype=nodes.dtype)
    offsets = (points[None, None] - nodes[None, :, None]) / (end - start)
    ratios = jnp.where(jnp.eye(count, dtype=bool)[:, :, None], 1.0, offsets / gaps[:, :, None])
    return jnp.prod(ratios, axis=1) @ density


def refined(times: Float[Array, " points"], sde: SDE) -> Float[Array, " twice"]:
    """The grid with a time added in the middle of each step, in log-SNR: the reference for measuring an error.

    >>> from score_sde.sdes import VE
    >>> [round(float(t), 3) for t in refined(jnp.array([1.0, 0.5, 0.0]), VE())]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    place = sde.log_snr(times)
    middle = sde.inverse_log_snr(0.5 * (place[:-1] + place[1:]))
    return jnp.concatenate([jnp.stack([times[:-1], middle], axis=1).reshape(-1), times[-1:]])
