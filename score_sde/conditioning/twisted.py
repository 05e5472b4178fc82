r"""The twisted diffusion sampler: sequential Monte Carlo whose particles converge to the posterior of any model.

Wu et al. 2023 (arXiv 2306.17775). Every particle takes ancestral steps ``p(x_s | x_t)`` of the model, pulled towards
the observation by the gradient of a twist ``psi_t(x)``, an approximation of ``p(y | x_t)``, and its weight mends what
the pull does to its law. The weights are products over the steps, resampling happens only where they are too unequal,
and so the mean weight is an unbiased estimate of the evidence ``p(y)`` for every number of particles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.arguments import check_floats, check_key, not_fulfilled, not_whole, score_at
from score_sde.conditioning.operators import observed_shape
from score_sde.errors import UserError, refuse
from score_sde.keys import fold_in, sample_keys, sample_noise
from score_sde.processes import Process
from score_sde.solvers.pairing import check_times
from score_sde.typing import Batch, Number, PRNGKey, Scalar, ScoreFn, Times, event_sum

#: Purposes of the keys derived from the key of a run and from the keys of its particles.
_START, _RESAMPLING = 0x7FFFFFFE, 0x7FFFFFFF


class Particles(NamedTuple):
    """A weighted sample of the posterior.

    Attributes:
        x: Denoised samples.
        log_weights: Logarithms of their weights, which sum to 1.
        log_evidence: Logarithm of an unbiased estimate of ``p(y)``, the density of the observation under the model.
        effective_sizes: The number of particles that the weights are worth, at the start and after every step.
    """

    x: Batch
    log_weights: Times
    log_evidence: Scalar
    effective_sizes: Float[Array, " points"]

    def draws(self, key: PRNGKey) -> Batch:
        """As many samples of equal weight, by systematic resampling: particles of large weight are repeated."""
        return self.x[systematic(key, self.log_weights)]


class _Seen(NamedTuple):
    """The model and the twist at the particles."""

    score: Batch
    denoised: Batch
    log_twist: Times
    pull: Batch  # the gradient of the twist's logarithm


class _State(NamedTuple):
    x: Batch
    seen: _Seen
    log_weights: Times  # since the last resampling, not normalized
    log_evidence: Scalar  # up to there


def twisted_diffusion(
    key: PRNGKey,
    process: Process,
    score_fn: ScoreFn,
    operator: Callable[[Array], Array],
    y: Array,
    noise_std: Any,
    *,
    shape: tuple[int, ...],
    times: Float[Array, " points"],
    num_particles: int = 64,
    resample_below: Number = 0.5,
    data_std: Number = 1.0,
) -> Particles:
    r"""Particles of the posterior given one observation ``y = A(x_0) + noise_std z``, and its evidence.

    The law that the particles converge to, as their number grows, is exactly the law of the model's ancestral samples
    along the same times, denoised at the last, given the observation; its error falls like one over the root of their
    number. The twist ``N(y; A(D), noise_std^2 + r^2)`` at the denoised sample ``D``, with
    ``r^2 = s^2 data_std^2 / (s^2 + m^2 data_std^2)`` and 0 at the last time, decides how many are needed.

    Args:
        key: Draws everything.
        process: The forward process.
        score_fn: The score of its marginals, for one event or class that all particles share.
        operator: ``A``, any differentiable function from a batch of examples to a batch of observations.
        y: The observation, with a batch axis of length 1.
        noise_std: Standard deviation of its noise, a number or an array of the shape of ``y``.
        shape: Shape of one example.
        times: Decreasing grid from 1.
        num_particles: Their number ``K``.
        resample_below: The share of ``K`` below which the effective sample size triggers resampling; 0 for never, 1
            for nearly always.
        data_std: Standard deviation of the data.

    Raises:
        UserError: If the noise is not positive and finite, the observation is not finite or does not have the shape
            that the operator makes, or a number is out of range.

    >>> from score_sde import VP, sampling
    >>> times, y = sampling.log_snr_times(VP(), 50), jnp.array([[1.0]])
    >>> run = lambda key: twisted_diffusion(  # of data N(0, I), whose first value is observed
    ...     key, VP(), lambda x, t: -x, lambda x: x[:, :1], y, 0.5, shape=(2,), times=times)
    >>> particles = jax.jit(run)(jax.random.key(0))
    >>> mean = jnp.exp(particles.log_weights) @ particles.x
    >>> bool(jnp.abs(mean - jnp.array([0.8, 0.0])).max() < 0.4)
    True
    """
    check_key(key)
    check_floats(y, "observation")
    refuse(
        [
            *not_whole("num_particles", num_particles, 1),
            *not_fulfilled("resample_below", resample_below, lambda r: (r >= 0.0) & (r <= 1.0), "a share, 0 to 1"),
            *not_fulfilled("noise_std", noise_std, _is_std, "a finite number above 0, by which twists divide"),
            *not_fulfilled("y", y, np.isfinite, "finite observations"),
            *not_fulfilled("data_std", data_std, lambda std: np.isfinite(std) & (std > 0.0), "a number above 0"),
        ]
    )
    check_times(process, times)
    _check_observation(operator, y, noise_std, (num_particles, *shape))
    look = _looking(process, score_fn, operator, y, noise_std, data_std)
    keys = sample_keys(key, 0, num_particles)
    x = jax.vmap(lambda own: process.prior_sample(own, shape))(fold_in(keys, _START))
    seen = look(x, times[0], False)

    def step(index: Array, carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, sizes = carry
        state = _resampled(jax.random.fold_in(jax.random.fold_in(key, _RESAMPLING), index), state, resample_below)
        t, s = times[index], times[index + 1]
        state = _moved(fold_in(keys, index), process, look, state, t, s, last=index == times.shape[0] - 2)
        return state, sizes.at[index + 1].set(effective_size(state.log_weights))

    sizes = jnp.zeros(times.shape[0]).at[0].set(effective_size(seen.log_twist))
    state = _State(x, seen, seen.log_twist, jnp.zeros(()))
    state, sizes = jax.lax.fori_loop(0, times.shape[0] - 1, step, (state, sizes))
    weights = jax.nn.log_softmax(state.log_weights)
    return Particles(state.seen.denoised, weights, state.log_evidence + _log_mean(state.log_weights), sizes)


def effective_size(log_weights: Times) -> Scalar:
    """``(sum w)^2 / sum w^2``, from 1, a single weight, to their number, all equal.

    >>> round(float(effective_size(jnp.log(jnp.array([1.0, 1.0, 1e-9])))), 3)
    2.0
    """
    return jnp.exp(-jax.scipy.special.logsumexp(2.0 * jax.nn.log_softmax(log_weights)))


def systematic(key: PRNGKey, log_weights: Times) -> Int[Array, " batch"]:
    """Indices drawn by their weights along one uniform comb: each appears ``K w`` times, rounded down or up.

    >>> systematic(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25, 1e-9]))).tolist()
    [0, 0, 1, 2]
    """
    count = log_weights.shape[0]
    edges = jnp.cumsum(jax.nn.softmax(log_weights))
    comb = (jnp.arange(count) + jax.random.uniform(key)) / count
    return jnp.clip(jnp.searchsorted(edges / edges[-1], comb), 0, count - 1)


def _looking(
    process: Process, score_fn: ScoreFn, operator: Callable[[Array], Array], y: Array, noise_std: Any, data_std: Number
) -> Callable[[Batch, Scalar, Any], _Seen]:
    """The function that evaluates the model and the twist, with one gradient of the model."""

    def look(x: Batch, t: Scalar, last: Any) -> _Seen:
        at = jnp.full(x.shape[:1], t)
        mean_coeff, std = process.marginal(t)
        spread = std**2 * data_std**2 / (std**2 + (mean_coeff * data_std) ** 2)
        variance = jnp.asarray(noise_std) ** 2 + jnp.where(last, 0.0, spread)

        def total(x: Batch) -> tuple[Array, tuple[Batch, Batch, Times]]:
            score = score_at(score_fn, x, at)
            denoised = (x + std**2 * score) / mean_coeff
            squares = (y - operator(denoised)) ** 2 / variance + jnp.log(2.0 * jnp.pi * variance)
            log_twist = -0.5 * event_sum(squares)
            return jnp.sum(log_twist), (score, denoised, log_twist)

        pull, (score, denoised, log_twist) = jax.grad(total, has_aux=True)(x)
        return _Seen(score, denoised, log_twist, pull)

    return look


def _moved(
    keys: Any, process: Process, look: Callable[..., _Seen], state: _State, t: Scalar, s: Scalar, *, last: Any
) -> _State:
    """An ancestral step with the pull added to the score, and the ratio of the densities of both in the weights."""
    mean_coeff, step_std, std = process.posterior(s, t)
    noise = sample_noise(keys, state.x)
    shift = step_std**2 / mean_coeff * state.seen.pull
    x = (state.x + step_std**2 * state.seen.score) / mean_coeff + shift + std * noise
    seen = look(x, s, last)
    # log p(x_s | x_t) - log q(x_s | x_t), both of the same variance.
    ratio = -event_sum(shift * (0.5 * shift / std + noise) / std)
    log_weights = state.log_weights + ratio + seen.log_twist - state.seen.log_twist
    return _State(x, seen, log_weights, state.log_evidence)


def _resampled(key: PRNGKey, state: _State, resample_below: Number) -> _State:
    """The particles, drawn anew by their weights if these are too unequal."""
    count = state.log_weights.shape[0]
    unequal = effective_size(state.log_weights) < resample_below * count
    chosen = jnp.where(unequal, systematic(key, state.log_weights), jnp.arange(count))
    x, seen = jax.tree.map(lambda leaf: leaf[chosen], (state.x, state.seen))
    log_evidence = state.log_evidence + jnp.where(unequal, _log_mean(state.log_weights), 0.0)
    return _State(x, seen, jnp.where(unequal, 0.0, state.log_weights), log_evidence)


def _log_mean(log_weights: Times) -> Scalar:
    return jax.scipy.special.logsumexp(log_weights) - jnp.log(log_weights.shape[0])


def _is_std(std: np.ndarray) -> Any:
    return np.isfinite(std) & (std > 0.0)


def _check_observation(operator: Callable[[Array], Array], y: Array, noise_std: Any, shape: tuple[int, ...]) -> None:
    made = observed_shape(operator, shape)
    if jnp.ndim(noise_std) and jnp.shape(noise_std) != y.shape:
        raise UserError(
            f"noise_std has shape {jnp.shape(noise_std)}; expected a number, or the shape {y.shape} of the observation."
        )
    if made[:1] != shape[:1] or y.shape != (1, *made[1:]):
        raise UserError(
            f"The observation has shape {y.shape}, and the operator makes {made} of a batch of shape {shape}; expected "
            f"{(1, *made[1:])}."
        )
