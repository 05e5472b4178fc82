r"""An upper bound on the negative log-likelihood, from independent noise levels instead of an ODE.

Started at the prior, the reverse SDE of a score function down to ``t_min``, followed by the Gaussian decoder
``N(x; E[x | x_t], (s/m)^2 I)``, defines a density ``p(x)``. With ``x_t = m x + s z``, ``q = -z / s`` the score of
``p(x_t | x)`` and ``H`` an entropy (Song, Durkan, Murray & Ermon 2021b, arXiv 2101.09258, theorem 3)

    -log p(x) <= prior + integral + offset,                    prior = -E log prior(x_1),
    integral = 1/2 int_{t_min}^1 E[g^2 (|score - q|^2 - |q|^2) - 2 div(f x)] dt,
    offset = -E log N(x; E[x | x_t], (s/m)^2 I) - H(p(x_t | x))   at t = t_min.

Terms with a closed form are not sampled: the prior term, the drift, ``-int d f dt = d log(m(t_min) / m(1))``, and
``E|z|^2 = d``. In noise space, ``n = -s score``, nothing is divided by the small standard deviations near ``t = 0``,
and the integral and the offset share their one unknown,

    integral = d log(m(t_min) / m(1)) + 1/2 int (g^2 / s^2) e(t) dt,      e(t) = E[|n - z|^2 - |z|^2],
    offset   = -d log m(t_min) + 1/2 e(t_min).

By Stein's identity ``E[n . z] = s E[div n]``, so that ``e = E[|n|^2 - 2 s div n]``, the sliced form.
"""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arguments import as_data, check_key, check_pairs, not_inner_time, of_examples, score_at
from score_sde.errors import refuse, unknown
from score_sde.fields import DEFAULTS
from score_sde.keys import example_keys, sample_noise
from score_sde.likelihood.divergence import ProbeKind, check_probes, draw_probes, value_and_quadratic_forms
from score_sde.sdes import SDE
from score_sde.times import ImportanceTimes, LowDiscrepancyTimes, UniformTimes
from score_sde.typing import (
    Batch,
    Number,
    PRNGKey,
    SampleKeys,
    Scalar,
    ScoreFn,
    Times,
    event_sum,
    expand_like,
    time_dtype,
)

#: How the bound treats the score: by denoising, or by its divergence along random directions.
BoundForm = Literal["denoising", "sliced"]
_Draws: TypeAlias = Float[Array, "draws batch"]
#: Times, and the keys of noise and probes of each example.
OneTimeDraws: TypeAlias = tuple[Times, SampleKeys, SampleKeys]
_OFFSET_DRAWS = 8


class Bound(NamedTuple):
    """Upper bounds on negative log-likelihoods in nats, and their terms, per example."""

    value: Times  # prior + integral + offset
    std_error: Times  # standard error of the value over the draws of times, noise and probes
    prior: Times
    integral: Times
    offset: Times


def nll_bound(
    key: PRNGKey,
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    *,
    t_min: Number = DEFAULTS.likelihood.t_min,
    num_times: int = 128,
    importance: bool = True,
    form: BoundForm = "denoising",
    offset: bool = DEFAULTS.dequantizer.offset,
    num_probes: int | None = DEFAULTS.likelihood.num_probes,
    probe_kind: ProbeKind = DEFAULTS.likelihood.probe_kind,
) -> Bound:
    """An unbiased estimate of the bound on ``-log p(x)`` (Song et al. 2021b, theorem 3), and its standard error.

    Times are stratified, with two draws in each of ``num_times / 2`` strata: their difference is an honest measure of
    the error, which a single draw would not provide.

    Args:
        key: Draws times, noise and probes; example ``i`` uses ``fold_in(key, i)``.
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Continuous data of shape ``(batch, *event)``.
        t_min: Time of the decoder, where the reverse SDE ends.
        num_times: Evaluations of the score per example, an even number; 8 more are for the offset.
        importance: Times uniform in log-SNR (:class:`~score_sde.objectives.ImportanceTimes`), else uniform times.
        form: ``"denoising"``, or ``"sliced"`` with the divergence of the score, which costs a derivative per probe.
        offset: Add the decoder. Without it the bound is on the mean of ``-log p`` at ``t_min`` over ``x_t | x``.
        num_probes: For the sliced form: Hutchinson probes per time, or ``None`` for the exact divergence.
        probe_kind: For the sliced form: ``"rademacher"`` or ``"gaussian"``.

    Returns:
        The bound in nats with its standard error and its three terms, per example.

    Raises:
        UserError: If ``t_min`` is not a time between 0 and 1, if ``num_times`` is odd or less than 2, if the form is
            unknown, if there are no probes, if the data are whole numbers or empty, if the key is not a single key, or
            if the scores differ in shape from the data.

    >>> from score_sde.sdes import VP
    >>> sde = VP()
    >>> score = lambda x, t: -x  # of data N(0, I), whose model is exact: the bound is -log N(x; 0, I)
    >>> bound = nll_bound(jax.random.key(0), sde, score, jnp.zeros((1, 2)), num_times=1000)
    >>> abs(float(bound.value[0]) - 1.8379) < 4 * float(bound.std_error[0]) < 0.5
    True
    """
    refuse(not_inner_time("t_min", t_min))
    check_pairs("num_times", num_times)
    if form not in get_args(BoundForm):
        raise unknown("form of the bound", form, get_args(BoundForm))
    check_probes(num_probes, probe_kind)
    x = as_data(x)
    keys = example_keys(key, x)
    time_keys, draw_keys, offset_keys = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(keys)
    law = ImportanceTimes(sde=sde, t0=t_min) if importance else UniformTimes(t0=t_min)
    options: dict[str, Any] = {"form": form, "num_probes": num_probes, "probe_kind": probe_kind}

    def scaled_errors(t: _Draws, scale: _Draws, keys: SampleKeys) -> _Draws:
        def draw(row: tuple[Times, Times, SampleKeys]) -> Times:
            t, scale, keys = row
            return scale * _draw_error(keys, sde, score_fn, x, t, **options)

        rows = jax.vmap(lambda k: jax.random.split(k, t.shape[0]), out_axes=1)(keys)
        return jax.lax.map(draw, (t, scale, rows))  # in turn, to save memory

    samples = jax.vmap(law.at)(paired_quantiles(time_keys, num_times))
    t, weight = (part.astype(time_dtype(x)) for part in samples)
    rate = (sde.diffusion(t) / sde.marginal(t).std) ** 2
    halves = scaled_errors(t, 0.5 * (1.0 - t_min) * (weight * rate), draw_keys)  # constant under importance sampling
    prior, integral, extra = _closed_forms(sde, x, t_min)
    integral = integral + jnp.mean(halves, axis=0)
    variance = jnp.mean((halves[0::2] - halves[1::2]) ** 2, axis=0) / (2 * num_times)
    if not offset:
        extra = jnp.zeros_like(integral)
    else:
        shape = (_OFFSET_DRAWS, x.shape[0])
        halves = scaled_errors(jnp.full(shape, t_min, x.dtype), jnp.full(shape, 0.5, x.dtype), offset_keys)
        extra = extra + jnp.mean(halves, axis=0)
        variance = variance + jnp.var(halves, axis=0, ddof=1) / _OFFSET_DRAWS
    return Bound(prior + integral + extra, jnp.sqrt(variance), prior, integral, extra)


def bound_draw(
    key: PRNGKey,
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    *,
    t_min: Number = DEFAULTS.likelihood.t_min,
    offset: bool = DEFAULTS.dequantizer.offset,
) -> Times:
    """One draw of the bound per example, from one time each: the training loss of dequantization noise.

    The draw is unbiased for every example, and differentiable in ``x``. The times are uniform in log-SNR and spread
    evenly over the batch, which makes their mean vary less than with independent draws.

    Args:
        key: Draws times and noise; the noise of example ``i`` uses ``fold_in(key, i)``.
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Continuous data of shape ``(batch, *event)``.
        t_min: Time of the decoder.
        offset: Add the decoder, for one more evaluation of the score.

    Returns:
        The bound in nats per example.

    Raises:
        UserError: If ``t_min`` is not a time between 0 and 1, if the data are whole numbers or empty, if the key is not
            a single key, or if the scores differ in shape from the data.

    >>> from score_sde.sdes import VP
    >>> draws = bound_draw(jax.random.key(0), VP(), lambda x, t: -x, jnp.zeros((4000, 2)))
    >>> abs(float(draws.mean()) - 1.8379) < 0.1  # of data N(0, I), whose model is exact: -log N(0; 0, I)
    True
    """
    refuse(not_inner_time("t_min", t_min))
    x = as_data(x)
    return one_time_bound(draw_one_time(key, sde, x, t_min), sde, score_fn, x, t_min=t_min, offset=offset)


def draw_one_time(key: PRNGKey, sde: SDE, x: Array, t_min: Number) -> OneTimeDraws:
    """The randomness of :func:`bound_draw`: the times, and the keys of the noise of the integral and the decoder."""
    check_key(key)
    times_key, noise_key = jax.random.split(key)
    keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(noise_key, x))
    return _even_law(sde, t_min).sample(times_key, x.shape[0]).t, *keys


def one_time_bound(draws: OneTimeDraws, sde: SDE, score_fn: ScoreFn, x: Batch, *, t_min: Number, offset: bool) -> Times:
    """The bound of :func:`bound_draw` from given draws, so that a batch may be split after drawing."""

    def error(keys: SampleKeys, t: Times) -> Times:
        options: dict[str, Any] = {"form": "denoising", "num_probes": None, "probe_kind": "rademacher"}
        return _draw_error(keys, sde, score_fn, x, t, **options)

    t, integral_keys, offset_keys = draws
    t = t.astype(time_dtype(x))
    prior, integral, extra = _closed_forms(sde, x, t_min)
    value = prior + integral + 0.5 * _even_law(sde, t_min).normalizer.astype(t.dtype) * error(integral_keys, t)
    return value + extra + 0.5 * error(offset_keys, jnp.full_like(t, t_min)) if offset else value


def _even_law(sde: SDE, t_min: Number) -> ImportanceTimes:
    return ImportanceTimes(sde=sde, t0=t_min, base=LowDiscrepancyTimes(t0=0.0))


def _closed_forms(sde: SDE, x: Batch, t_min: Number) -> tuple[Times, Scalar, Scalar]:
    """The prior term, and the integral and the offset without the error ``e`` of the noise."""
    start, end = (sde.marginal(jnp.asarray(t, x.dtype)) for t in (t_min, 1.0))
    dim = x[0].size
    prior = 0.5 * dim * (end.std / sde.prior_std) ** 2 - sde.prior_logp(end.mean_coeff * x)
    return prior, dim * jnp.log(start.mean_coeff / end.mean_coeff), -dim * jnp.log(start.mean_coeff)


def noise_error(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: Times,
    noise: Batch,
    probes: Float[Array, "batch probes *event"] | None = None,
) -> Times:
    """``|n - z|^2 - |z|^2`` at ``x_t = m x + s z``; its mean over the noise ``z`` is ``e(t)``.

    Args:
        sde: The forward process.
        score_fn: The score of its marginals.
        x: The data.
        t: One time per example.
        noise: The noise ``z``.
        probes: For the sliced form ``|n|^2 - 2 s div n``, with the mean of the quadratic forms as divergence.

    >>> from score_sde.sdes import VP
    >>> x, t, noise = jnp.zeros((1, 2)), jnp.ones(1), jnp.array([[1.0, -2.0]])
    >>> round(float(noise_error(VP(), lambda x, t: -x, x, t, noise)[0]), 3)  # x_t is the noise, and n all of it
    -5.0
    """
    mean_coeff, std = sde.marginal(t)
    xt = expand_like(mean_coeff, x) * x + expand_like(std, x) * noise

    def noise_fn(score_fn: ScoreFn, xt: Batch, t: Times) -> Batch:
        return -expand_like(sde.marginal(t).std, xt) * score_at(score_fn, xt, t)

    if probes is None:
        predicted = noise_fn(score_fn, xt, t)
        return event_sum(predicted**2) - 2.0 * event_sum(predicted * noise)

    def single(xt: Array, t: Array, probes: Array, index: Array) -> tuple[Array, Array]:
        own = of_examples(score_fn, index[None])
        return value_and_quadratic_forms(lambda event: noise_fn(own, event[None], t[None])[0], xt, probes)

    predicted, forms = jax.vmap(single)(xt, t, probes, jnp.arange(x.shape[0]))
    return event_sum(predicted**2) - 2.0 * std * jnp.mean(forms, axis=1)


def _draw_error(
    keys: SampleKeys,
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    t: Times,
    *,
    form: BoundForm,
    num_probes: int | None,
    probe_kind: ProbeKind,
) -> Times:
    """One unbiased draw of ``e(t)`` per example."""
    event, dim = x.shape[1:], x[0].size
    noise_keys, probe_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    noise = sample_noise(noise_keys, x)
    # At high noise n is nearly z, so the error is -|z|^2 in one form and |z|^2 - 2d in the other. A control variate of
    # mean zero, the share of noise in x_t times |z|^2 - d, removes most of the variance.
    mean_coeff, std = sde.marginal(t)
    control = std**2 / (mean_coeff**2 + std**2) * (event_sum(noise**2) - dim)
    if form == "denoising":
        return noise_error(sde, score_fn, x, t, noise) + control
    probes = jax.vmap(lambda k: draw_probes(k, num_probes, event, probe_kind))(probe_keys).astype(x.dtype)
    if num_probes is None:
        probes = probes * jnp.sqrt(dim)  # the mean over the scaled basis is the trace
    return noise_error(sde, score_fn, x, t, noise, probes) - control


def paired_quantiles(keys: SampleKeys, num: int) -> _Draws:
    """Quantiles with two successive ones in each of ``num / 2`` equal strata."""
    stratum = jnp.arange(num) // 2
    return jax.vmap(lambda k: (stratum + jax.random.uniform(k, (num,))) / (num // 2), out_axes=1)(keys)
