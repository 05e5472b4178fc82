r"""Variances of a chain's steps, learned by a network value by value.

A step learns its variance between the posterior's and the transition's (Nichol & Dhariwal 2021, arXiv 2102.09672,
eq. 15),

    log v = (1 - w) log(G^2 s(s)^2 / s(t)^2) + w log G^2,

and the decoder its own between the two of :data:`~score_sde.variational.ancestral_bound.DecoderVariance`. The network
therefore has two outputs for every value, the noise and the fraction ``w``. Fixed variances are the special case of a
constant fraction.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.chains import Chain
from score_sde.errors import UserError
from score_sde.labels import unconditioned
from score_sde.parameterization import Parameterization
from score_sde.typing import Batch, Labels, Network, Params, PRNGKey, Times, expand_like, time_dtype
from score_sde.variational.gaussian import Gaussian


class NoiseAndFraction(NamedTuple):
    """A network's prediction for a step: ``E[z | x_t]``, and the position of its log-variance between its bounds."""

    noise: Batch
    fraction: Batch  # 0 for the posterior's variance, 1 for the transition's; of the shape of the noise


#: The noise and the fraction of the variance that a network predicts.
PredictFn = Callable[[Batch, Times], NoiseAndFraction]


def with_variances(network: Network) -> Network:
    """A network with two outputs for every value, made from a network with one by passing the input twice.

    The copies lie side by side along the last axis, so that any network of the registry works.

    >>> class Identity:
    ...     def init(self, key, shape): return {}
    ...     def apply(self, params, x, condition, *, label=None, key=None): return x
    >>> with_variances(Identity()).apply({}, jnp.ones((2, 3)), jnp.ones(2)).shape
    (2, 6)
    """
    return _Adapted(network=network, before=lambda x: jnp.concatenate([x, x], axis=-1))


def with_fraction(network: Network, fraction: float) -> Network:
    """A network with a constant second output for every value: variances that are not learned.

    >>> class Identity:
    ...     def init(self, key, shape): return {}
    ...     def apply(self, params, x, condition, *, label=None, key=None): return x
    >>> with_fraction(Identity(), 0.0).apply({}, jnp.ones((1, 2)), jnp.ones(1)).tolist()  # of 2 w - 1
    [[1.0, 1.0, -1.0, -1.0]]
    """
    raw = 2.0 * fraction - 1.0
    return _Adapted(
        network=network, after=lambda output: jnp.concatenate([output, jnp.full_like(output, raw)], axis=-1)
    )


def first_half(network: Network) -> Network:
    """The first half of a network's outputs along their last axis, with the parameters of the whole."""
    return _Adapted(network=network, after=lambda output: jnp.split(output, 2, axis=-1)[0])


def make_predict_fn(
    network: Network,
    parameterization: Parameterization,
    chain: Chain,
    params: Params,
    *,
    key: PRNGKey | None = None,
) -> PredictFn:
    """Noise and fraction of a network with two outputs for every value.

    The parameterization interprets the first half of the last axis; the second is ``2 w - 1``, so that a network that
    starts at zero starts between the two variances. The fraction is not confined to ``[0, 1]``, as in the original.

    The network has two outputs, as from :func:`with_variances`; the parameterization is the meaning of the first. The
    parameters may be :class:`~score_sde.labels.Conditioned` on classes, and a key switches dropout on.
    """
    params, label = unconditioned(params)
    given = {} if label is None else {"label": label}

    def predict(x: Batch, t: Times) -> NoiseAndFraction:
        both = network.apply(params, *parameterization.inputs(chain, x, t), key=key, **given)
        output, raw = jnp.split(both, 2, axis=-1)
        return NoiseAndFraction(parameterization.noise(chain, output, x, t), 0.5 * (raw + 1.0))

    return predict


@runtime_checkable
class Reversal(Protocol):
    """The decoder of a chain: a Gaussian for every step down, and one for the data."""

    def step(self, x: Batch, t: Times, s: Times) -> Gaussian:
        """``p(x_s | x_t)`` at ``x_t = x``, from one level to the next below."""
        ...

    def decode(self, x: Batch) -> Gaussian:
        """``p(x_0 | x_1)`` at ``x_1 = x``, the last level."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedReversal:
    """The reversal of a chain by predicted noise, with variances of its own (Nichol & Dhariwal 2021, eq. 15).

    Attributes:
        chain: The chain.
        predict: Noise and fraction at ``(x_t, t)``, as from :func:`make_predict_fn`.
    """

    chain: Chain
    predict: PredictFn

    def step(self, x: Batch, t: Times, s: Times) -> Gaussian:
        """The posterior's mean at the predicted noise, and the learned variance."""
        mean_coeff, step_std, std = self.chain.posterior(s, t)
        noise, fraction = self.predict(x, t)
        drift = expand_like(step_std**2 / self.chain.marginal(t).std, x) * noise
        log_std = expand_like(jnp.log(std), x) + fraction * expand_like(jnp.log(step_std / std), x)
        return Gaussian((x - drift) / expand_like(mean_coeff, x), log_std)

    def decode(self, x: Batch) -> Gaussian:
        """``E[x_0 | x_1]``, and the learned variance."""
        times = level_times(self.chain, x)
        t = jnp.full(x.shape[:1], times[0])
        mean_coeff, std = (expand_like(c, x) for c in self.chain.marginal(t))
        noise, fraction = self.predict(x, t)
        return Gaussian((x - std * noise) / mean_coeff, decoder_log_std(self.chain, fraction))


def decoder_log_std(chain: Chain, fraction: Batch) -> Batch:
    """Between the posterior's std of the last level given the one above, and ``s / m`` of the last level."""
    times = level_times(chain, fraction)
    least = jnp.log(chain.posterior(times[0], times[1]).std)
    mean_coeff, std = chain.marginal(times[0])
    return least + fraction * (jnp.log(std / mean_coeff) - least)


def level_times(chain: Chain, x: Batch) -> Float[Array, " levels"]:
    """The times of the levels, of the type of the data."""
    return chain.times.astype(time_dtype(x))


def check_levels(chain: Chain) -> None:
    """Refuse a chain without a step.

    Raises:
        UserError: If it has fewer than two levels.
    """
    if chain.num_levels < 2:
        raise UserError(f"The chain has {chain.num_levels} levels; expected at least 2.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Adapted:
    """A network with transformed input and output, and unchanged parameters."""

    network: Network
    before: Callable[[Batch], Batch] = lambda x: x
    after: Callable[[Batch], Batch] = lambda x: x

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape``, batch axis included."""
        return self.network.init(key, jax.eval_shape(self.before, jnp.zeros(shape)).shape)

    def apply(
        self, params: Params, x: Batch, condition: Times, *, label: Labels | None = None, key: PRNGKey | None = None
    ) -> Float[Array, "batch *changed"]:
        """The transformed output; a network without classes need not accept ``label``."""
        given = {} if label is None else {"label": label}
        return self.after(self.network.apply(params, self.before(x), condition, key=key, **given))
