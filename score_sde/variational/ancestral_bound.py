r"""The variational bound of a discrete chain, term by term: likelihood, rate and distortion of ancestral sampling.

A chain whose levels ``t_1 > ... > t_L`` are followed from the prior down to the data, by steps ``p(x_s | x_t)`` with
the posterior's mean at the score function's ``x_0`` and a decoder at the last level, is a latent-variable model
(Sohl-Dickstein et al. 2015, arXiv 1503.03585, eq. 14; Ho et al. 2020, arXiv 2006.11239, eq. 5),

    -log P(x_0) <= L_T + sum E KL(q(x_s | x_t, x_0) || p(x_s | x_t)) + L_0,
    L_T = KL(q(x_{t_1} | x_0) || prior),      L_0 = E[-log P(x_0 | x_{t_L})].

In noise space, with ``x_t = m x_0 + s z`` and ``n = -s score``, everything is a multiple of one error. Let ``a`` and
``G`` be the transition's (``x_t = a x_s + G z``), ``v`` the variance of a step of the model and ``r`` the ratio of the
posterior's variance ``G^2 s(s)^2 / s(t)^2`` to it: with ``d`` dimensions

    KL = d/2 (r - 1 - log r) + G^4 / (2 a^2 s(t)^2 v) |n - z|^2,      E[x_0 | x_t] - x_0 = (s/m) (z - n).

With small variances ``r = 1`` and the factor of the error is half of ``snr(s) / snr(t) - 1``.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.arguments import as_data, not_whole, score_at
from score_sde.chains import Chain
from score_sde.errors import UserError, refuse, unknown
from score_sde.keys import example_keys, fold_in, sample_noise
from score_sde.processes import Process
from score_sde.quantization import CONTINUOUS, Quantization
from score_sde.solvers.pairing import check_times
from score_sde.typing import (
    Batch,
    Number,
    PRNGKey,
    SampleKeys,
    ScoreFn,
    Time,
    Times,
    event_sum,
    expand_like,
    time_dtype,
)
from score_sde.variational.bins import log_bin_probability

StepVariance = Literal["fixed_small", "fixed_large"]  #: the variance of a step: of the posterior, or of the transition
#: The variance of the decoder: of the first level, or of its posterior.
DecoderVariance = Literal["marginal", "posterior"]

_Grid: TypeAlias = Float[Array, " levels"]
_Rows: TypeAlias = Float[Array, "rows batch"]
_PerModel: TypeAlias = Float[Array, "models batch"]


class ChainBound(NamedTuple):
    """Upper bounds on negative log-likelihoods in nats, their terms, and the cost of a code of the data.

    All are per example; entries per level are in the order of the reversal, from the prior to the data.
    """

    value: Times  # prior + sum of divergences + decoder
    std_error: Times  # standard error of the value over the draws of noise and levels; nan with one draw
    prior: Times  # L_T
    divergences: Float[Array, "batch steps"]  # L_{t-1} of the step down from each level but the last
    decoder: Times  # L_0
    squared_error: Float[Array, "batch levels"]  # |E[x_0 | x_t] - x_0|^2 / d at every level, scaled as the data

    @property
    def rate(self) -> Float[Array, "batch levels"]:
        """Nats to send ``x_t`` at every level: ``L_T`` and the divergences above it (Ho et al., sec. 4.3).

        The remaining distortion is the root of the mean ``squared_error``.
        """
        return self.prior[:, None] + jnp.pad(jnp.cumsum(self.divergences, axis=1), ((0, 0), (1, 0)))


class ChainModel(NamedTuple):
    """The choices of an ancestral sampler that turn a score function into a density; see :func:`chain_bound`."""

    variance: StepVariance = "fixed_small"
    decoder: DecoderVariance = "marginal"


class _Steps(NamedTuple):
    """For the step down from every level but the last: the factor of the error, and the divergence without error."""

    factor: Float[Array, " steps"]
    excess: Float[Array, " steps"]  # per dimension


class _Plan(NamedTuple):
    """The visited levels, row by row; the last rows belong to the decoder. Weighted sums over rows are means."""

    level: Int[Array, "rows batch"]
    weight: _Rows
    group: int  # rows in a group of independent draws, for the standard error


def chain_bound(
    key: PRNGKey,
    process: Process,
    score_fn: ScoreFn,
    x: Batch,
    *,
    quantization: Quantization = CONTINUOUS,
    times: _Grid | None = None,
    variance: StepVariance = "fixed_small",
    decoder: DecoderVariance = "marginal",
    num_terms: int | None = None,
    draws: int = 2,
) -> ChainBound:
    """An unbiased estimate of the variational bound of a chain, and of each of its terms.

    The decoder is the Gaussian around ``E[x_0 | x_t]`` at the last level: its density for continuous data, and for
    gray levels the probability of the bin, so that nothing is dequantized. With ``decoder="marginal"`` its std is
    ``s / m`` of the last level, ``sqrt(b_1 / (1 - b_1))`` of a DDPM chain: the std of ``x_0`` given ``x_t`` if all
    ``x_0`` were equally likely. With ``"posterior"`` it is the std of the posterior of the last level given the one
    above: the choice of Ho et al.'s code for both variances, narrower, and right for nearly deterministic data. For
    finely spaced levels, such as NCSN's, it is far too narrow.

    Args:
        key: Draws noise and levels; example ``i`` uses ``fold_in(key, i)``.
        process: The chain; also an SDE, whose marginals at ``times`` are one.
        score_fn: The score of its marginals.
        x: Data as the network sees them, of shape ``(batch, *event)``; for gray levels any point inside each bin, such
            as ``quantization.midpoints``.
        quantization: The gray levels; by default the data are continuous, and the bound is one on a density.
        times: The levels to visit, decreasing, as from :func:`score_sde.sampling.levels_of`; all by default. The prior
            replaces the first and the decoder the step after the last, where there must be noise.
        variance: Variance of the steps: the posterior's, ``"fixed_small"``, right for known data, or the
            transition's ``G^2``, ``"fixed_large"``, right for data N(0, I); see :class:`score_sde.solvers.Ancestral`.
        decoder: Std of the decoder, ``"marginal"`` or ``"posterior"``.
        num_terms: Draw this many of the steps per example, an even number, with probabilities in proportion to their
            change of log-SNR, two per stratum. The divergences and errors are then weighted, and correct only in the
            mean. ``None`` for all steps.
        draws: Draws of the noise at every level, or only for the decoder where steps are drawn.

    Returns:
        The bound in nats, its standard error and its terms, per example.

    Raises:
        UserError: For an SDE without times, fewer than two levels, levels that do not decrease to one with noise, an
            odd number of terms, no draws, an unknown variance, data that are whole numbers or empty, more keys than
            one, or scores that differ in shape from the data.

    >>> from score_sde.chains import DDPM, linear_betas
    >>> from score_sde.variational import chain_bound
    >>> chain, score = DDPM(betas=linear_betas(100, 1e-3, 0.2)), lambda x, t: -x  # the exact score of data N(0, I)
    >>> x = jnp.zeros((2000, 2))
    >>> bound = chain_bound(jax.random.key(0), chain, score, x, variance="fixed_large")
    >>> abs(float(bound.value.mean()) - 1.8379) < 0.1  # -log N(0; 0, I), without a gap
    True
    """
    models = (ChainModel(variance, decoder),)
    options = {"quantization": quantization, "times": times, "num_terms": num_terms, "draws": draws}
    return chain_bounds(key, process, score_fn, x, models, **options)[0]


def chain_bounds(
    key: PRNGKey,
    process: Process,
    score_fn: ScoreFn,
    x: Batch,
    models: Sequence[ChainModel],
    *,
    quantization: Quantization = CONTINUOUS,
    times: _Grid | None = None,
    num_terms: int | None = None,
    draws: int = 2,
) -> list[ChainBound]:
    """The bounds of several models with one score function, which is evaluated once for all of them.

    The right variances depend on the data: large ones where a step leaves the data as uncertain as before, small ones
    where they are known. On coarse gray levels DDPM's large variances cost some tenths of a nat per dimension; on
    continuous data its small ones do. Arguments and errors as in :func:`chain_bound`.

    >>> from score_sde.chains import DDPM, linear_betas
    >>> from score_sde.variational import ChainModel, chain_bounds
    >>> chain, score = DDPM(betas=linear_betas(100, 1e-3, 0.2)), lambda x, t: -x  # of data N(0, I)
    >>> models = [ChainModel("fixed_large"), ChainModel("fixed_small")]
    >>> large, small = chain_bounds(jax.random.key(0), chain, score, jnp.ones((2, 3)), models)
    >>> bool((large.value < small.value).all())
    True
    """
    x = as_data(x)
    times = _levels(process, times).astype(time_dtype(x))
    _check(models, num_terms, draws)
    batch, last = x.shape[0], times.shape[0] - 1
    keys = example_keys(key, x)
    plan = (
        _every_level(last, draws, batch)
        if num_terms is None
        else _drawn_levels(keys, process.log_snr(times), num_terms, draws)
    )
    plan = plan._replace(weight=plan.weight.astype(x.dtype))
    rows = plan.level.shape[0]

    def evaluate(row: tuple[Array, Array]) -> tuple[Times, _PerModel]:
        index, level = row
        residual = _residual(process, score_fn, x, times[level], sample_noise(fold_in(keys, index), x))
        silent = jnp.zeros((len(models), batch), x.dtype)
        # Only the last rows pay for the decoder.
        return event_sum(residual**2), jax.lax.cond(index >= rows - draws, decode, lambda _: silent, residual)

    def decode(residual: Batch) -> _PerModel:
        mean_coeff, std = process.marginal(times[last])
        shift = -std / mean_coeff * residual
        stds = [_decoder_std(process, times, model.decoder) for model in models]
        return jnp.stack([_decoder_nats(x, shift, decoder_std, quantization) for decoder_std in stds])

    # In turn, to save memory; the network is traced once for all levels.
    errors, nats = jax.lax.map(evaluate, (jnp.arange(rows), plan.level))
    return [
        _assemble(process, x, times, _steps(process, times, model.variance), plan, errors, nats[rows - draws :, index])
        for index, model in enumerate(models)
    ]


def _assemble(
    process: Process,
    x: Batch,
    times: _Grid,
    steps: _Steps,
    plan: _Plan,
    errors: _Rows,
    decoder_nats: Float[Array, "draws batch"],
) -> ChainBound:
    """The bound of one model, from the errors of all rows and the decoder's nats of the last rows."""
    dim, draws, (batch, last) = x[0].size, decoder_nats.shape[0], (x.shape[0], steps.factor.shape[0])
    weighted = plan.weight * errors
    examples = jnp.broadcast_to(jnp.arange(batch)[None], plan.level.shape)
    error = jnp.zeros((batch, last + 1), x.dtype).at[examples, plan.level].add(weighted)
    parts = weighted[:-draws] * steps.factor[plan.level[:-draws]]
    variance = _sum_variance(parts, plan.group) + _sum_variance(decoder_nats / draws, draws)
    prior = prior_divergence(process, times[0], x)
    divergences = steps.factor[None] * error[:, :-1] + dim * steps.excess[None]
    decoder = jnp.mean(decoder_nats, axis=0)
    mean_coeff, std = process.marginal(times)
    return ChainBound(
        value=prior + jnp.sum(divergences, axis=1) + decoder,
        std_error=jnp.sqrt(variance),
        prior=prior,
        divergences=divergences,
        decoder=decoder,
        squared_error=((std / mean_coeff) ** 2)[None] * error / dim,
    )


def _levels(process: Process, times: _Grid | None) -> _Grid:
    """The levels to visit, by default all of a chain."""
    if times is None:
        if not isinstance(process, Chain):
            raise UserError(
                f"A {type(process).__name__} process has no levels of its own; expected times, or a chain such as "
                "process.discretize(1000)."
            )
        times = process.times[::-1]
    if times.shape[0] < 2:
        raise UserError(f"There are {times.shape[0]} levels to visit; expected at least 2.")
    check_times(process, times)
    return times


def _check(models: Sequence[ChainModel], num_terms: int | None, draws: int) -> None:
    for model in models:
        if model.variance not in get_args(StepVariance):
            raise unknown("variance of the steps", model.variance, get_args(StepVariance))
        if model.decoder not in get_args(DecoderVariance):
            raise unknown("variance of the decoder", model.decoder, get_args(DecoderVariance))
    if num_terms is not None and (list(not_whole("num_terms", num_terms, 2)) or num_terms % 2):
        raise UserError(f"num_terms is {num_terms}; expected an even number, of two draws in each stratum, or None.")
    refuse(not_whole("draws", draws, 1))


def _every_level(last: int, draws: int, batch: int) -> _Plan:
    """``draws`` rows of each level, all with the same weight."""
    level = jnp.broadcast_to(jnp.repeat(jnp.arange(last + 1), draws)[:, None], ((last + 1) * draws, batch))
    return _Plan(level, jnp.full(level.shape, 1.0 / draws), draws)


def _drawn_levels(keys: SampleKeys, log_snr: _Grid, num_terms: int, draws: int) -> _Plan:
    """``num_terms`` rows of levels that each example draws for itself, then ``draws`` rows of the last level."""
    last = log_snr.shape[0] - 1
    drop = jnp.diff(log_snr)
    cumulative = jnp.cumsum(drop) / jnp.sum(drop)
    probability = jnp.diff(cumulative, prepend=0.0)
    stratum = jnp.arange(num_terms) // 2
    keys = fold_in(keys, num_terms + draws)  # the rows below take theirs from 0 up
    quantile = jax.vmap(lambda k: (stratum + jax.random.uniform(k, (num_terms,))) / (num_terms // 2), out_axes=1)(keys)
    level = jnp.minimum(jnp.searchsorted(cumulative, quantile, side="right"), last - 1)
    rest = (draws, quantile.shape[1])
    return _Plan(
        jnp.concatenate([level, jnp.full(rest, last, level.dtype)]),
        jnp.concatenate([1.0 / (num_terms * probability[level]), jnp.full(rest, 1.0 / draws)]),
        2,
    )


def _steps(process: Process, times: _Grid, variance: str) -> _Steps:
    """The coefficients of the divergence of every step."""
    t, s = times[:-1], times[1:]
    mean_coeff, step_std, _ = process.posterior(s, t)
    above, below = process.marginal(t).std, process.marginal(s).std
    if variance == "fixed_small":
        return _Steps(0.5 * (step_std / (mean_coeff * below)) ** 2, jnp.zeros_like(above))
    ratio_less_one = (below - above) * (below + above) / above**2
    return _Steps(0.5 * (step_std / (mean_coeff * above)) ** 2, 0.5 * _less_log(ratio_less_one))


def _less_log(u: Array) -> Array:
    """``u - log(1 + u)``, which is small of second order."""
    series = u**2 * (1.0 / 2.0 - u * (1.0 / 3.0 - u * (1.0 / 4.0 - u / 5.0)))
    return jnp.where(jnp.abs(u) < 0.02, series, u - jnp.log1p(u))


def prior_divergence(process: Process, t: Time, x: Batch) -> Times:
    """``KL(N(m x, s^2 I) || prior)`` at time ``t`` in nats per example: ``L_T``, in closed form.

    >>> from score_sde.sdes import VP
    >>> 0.0 <= float(prior_divergence(VP(), jnp.ones(()), jnp.ones((1, 2)))[0]) < 1e-4
    True
    """
    mean_coeff, std = process.marginal(t)
    scale = jnp.asarray(process.prior_std, x.dtype)
    ratio_less_one = (std - scale) * (std + scale) / scale**2
    return 0.5 * (x[0].size * _less_log(ratio_less_one) + event_sum((mean_coeff / scale * x) ** 2))


def _decoder_std(process: Process, times: _Grid, decoder: str) -> Float[Array, ""]:
    if decoder == "posterior":
        return process.posterior(times[-1], times[-2]).std
    mean_coeff, std = process.marginal(times[-1])
    return std / mean_coeff


def _decoder_nats(x: Batch, shift: Batch, std: Number, quantization: Quantization) -> Times:
    """``-log P(x)`` of the decoder with mean ``x + shift``."""
    if quantization.num_grey_levels is not None:
        return -event_sum(log_bin_probability(x, shift, std, quantization))
    return 0.5 * (x[0].size * jnp.log(2.0 * jnp.pi * std**2) + event_sum((shift / std) ** 2))


def _residual(process: Process, score_fn: ScoreFn, x: Batch, t: Times, noise: Batch) -> Batch:
    """``n - z`` at ``x_t = m x + s z``."""
    mean_coeff, std = (expand_like(coefficient, x) for coefficient in process.marginal(t))
    return -std * score_at(score_fn, mean_coeff * x + std * noise, t) - noise


def _sum_variance(parts: _Rows, group: int) -> Times:
    """An estimate of the variance of a sum over rows, in groups of ``group`` successive rows that are alike."""
    groups = parts.reshape(-1, group, parts.shape[1])
    return group * jnp.sum(jnp.var(groups, axis=1, ddof=1), axis=0)
