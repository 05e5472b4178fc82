"""Parts of a user, as ``tests.own_parts:NAME``: some that keep their contracts, and one that breaks every clause."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from score_sde.processes import Marginal
from score_sde.sdes import SDE, VP, GaussianPath
from score_sde.solvers.base import SolverState, StatelessSolver
from score_sde.typing import TimeSamples

CALLS = [0]


def called():
    """How often it was called: the state that an impure part keeps."""
    CALLS[0] += 1
    return CALLS[0]


# --- networks ---------------------------------------------------------------------------------------------------------
class Linen(nn.Module):
    width: int = 16

    @nn.compact
    def __call__(self, x, condition):
        h = nn.swish(nn.Dense(self.width)(jnp.concatenate([x, condition[:, None]], -1)))
        return nn.Dense(x.shape[-1])(h)


class LinenWithLabel(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, condition, train, label=None):
        h = nn.Dense(8)(x)
        if label is not None:
            h = h + nn.Embed(self.num_classes + 1, 8)(label)
        h = nn.Dropout(0.5, deterministic=not train)(h)
        return nn.Dense(x.shape[-1])(h)


class LinenLogits(nn.Module):
    levels: int

    @nn.compact
    def __call__(self, x, condition):
        h = nn.swish(nn.Dense(16)(jnp.concatenate([x, jnp.broadcast_to(condition[:, None], x.shape)], -1)))
        return nn.Dense(x.shape[-1] * self.levels, kernel_init=nn.initializers.zeros)(h).reshape(*x.shape, self.levels)


class LinenSpan(nn.Module):
    @nn.compact
    def __call__(self, x, condition, span=None):
        h = nn.Dense(8)(jnp.concatenate([x, condition[:, None]], -1))
        if span is not None:
            h = h + nn.Dense(8, name="span")(span[:, None])
        return nn.Dense(x.shape[-1])(jnp.tanh(h))


class NNXSpan(nnx.Module):
    def __init__(self, event_shape, rngs):
        self.layer = nnx.Linear(event_shape[-1] + 2, event_shape[-1], rngs=rngs)

    def __call__(self, x, condition, span=None):
        span = jnp.zeros_like(condition) if span is None else span
        return self.layer(jnp.concatenate([x, condition[:, None], span[:, None]], -1))


class EquinoxSpan(eqx.Module):
    layer: eqx.nn.Linear

    def __init__(self, event_shape, key):
        self.layer = eqx.nn.Linear(event_shape[-1] + 2, event_shape[-1], key=key)

    def __call__(self, x, condition, span=None):
        span = jnp.zeros_like(condition) if span is None else span
        return self.layer(jnp.concatenate([x, condition[None], span[None]]))


def functions_span():
    def apply(params, x, condition, span=None):
        return params[None] * x + (0.0 if span is None else span[:, None])

    return lambda key, shape: jnp.ones(shape[-1]), apply


class NeedsSpan(nn.Module):
    @nn.compact
    def __call__(self, x, condition, span):
        return nn.Dense(x.shape[-1])(x + span[:, None])


class WithoutNoise(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1])(x)


class NNX(nnx.Module):
    def __init__(self, event_shape, rngs, width: int = 16):
        self.layers = nnx.List([nnx.Linear(event_shape[-1] + 1, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, event_shape[-1], rngs=rngs)

    def __call__(self, x, condition):
        h = jnp.concatenate([x, condition[:, None]], -1)
        for layer in self.layers:
            h = nnx.swish(layer(h))
        return self.last(self.drop(h))


class Equinox(eqx.Module):
    mlp: eqx.nn.MLP
    drop: eqx.nn.Dropout

    def __init__(self, event_shape, key, width: int = 16):
        self.mlp = eqx.nn.MLP(event_shape[-1] + 1, event_shape[-1], width, 2, key=key)
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x, condition, key=None):
        return self.mlp(self.drop(jnp.concatenate([x, condition[None]]), key=key))


def functions(width: int = 16):
    def init(key, shape):
        inner, outer = jax.random.split(key)
        return {
            "in": jax.random.normal(inner, (shape[-1] + 1, width)),
            "out": jax.random.normal(outer, (width, shape[-1])),
        }

    def apply(params, x, condition, key=None):
        h = jnp.tanh(jnp.concatenate([x, condition[:, None]], -1) @ params["in"])
        return (h if key is None else h * jax.random.bernoulli(key, 0.5, h.shape)) @ params["out"]

    return init, apply


class LinenBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x, condition, train):
        return nn.Dense(x.shape[-1])(nn.BatchNorm(use_running_average=not train)(x))


class NNXBatchNorm(nnx.Module):
    def __init__(self, event_shape, rngs):
        self.norm = nnx.BatchNorm(event_shape[-1], rngs=rngs)

    def __call__(self, x, condition):
        return self.norm(x)


class EquinoxBatchNorm(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __init__(self, event_shape, key):
        self.norm = eqx.nn.BatchNorm(event_shape[-1], "batch", mode="batch")

    def __call__(self, x, condition):
        return x


class EquinoxCounter(eqx.Module):
    weight: jax.Array
    count: jax.Array

    def __init__(self, key):
        self.weight, self.count = jax.random.normal(key, ()), jnp.zeros((), int)

    def __call__(self, x, condition):
        return self.weight * x


def drawn():
    return nnx.Linear(2, 2, rngs=nnx.Rngs(0))


def network(apply, init=lambda key, shape: jnp.ones(shape[-1])):
    return lambda: (init, apply)


changes_shape = network(lambda params, x, condition: (params[None] * x)[:, :1])
trains_another_shape = network(lambda params, x, condition, train: (params[None] * x)[:, : 1 if train else None])
changes_type = network(lambda params, x, condition: (params[None] * x).astype(jnp.float16))
counts_calls = network(lambda params, x, condition: params[None] * x * called())
draws_with_numpy = network(
    lambda params, x, condition: params[None] * x, lambda key, shape: jnp.ones(2) * np.random.rand()
)
returns_nan = network(lambda params, x, condition: params[None] * jnp.sqrt(x - 9.0))
mixes_examples = network(lambda params, x, condition: params[None] * (x - x.mean(0, keepdims=True)))
has_no_parameters = network(lambda params, x, condition: x, lambda key, shape: ())
has_whole_parameters = network(lambda params, x, condition: x, lambda key, shape: jnp.ones(2, int))
raises = network(lambda params, x, condition: x + jnp.zeros(5))
takes_too_much = network(lambda params, x, condition, more: x)


# --- processes --------------------------------------------------------------------------------------------------------
def cosine(angle: float = 1.5):
    return GaussianPath(lambda t: jnp.cos(angle * t), lambda t: jnp.sin(angle * t))


class Known(SDE):
    """``m = 1``, ``s = t``, as it should be; the others break one clause each."""

    prior_std = 1.0

    def drift_coeff(self, t):
        return jnp.zeros_like(t)

    def diffusion(self, t):
        return jnp.sqrt(2.0 * t)

    def marginal(self, t):
        return Marginal(jnp.ones_like(t), t)


class WrongMoments(Known):
    def diffusion(self, t):
        return jnp.sqrt(t)


class WrongMean(Known):
    def drift_coeff(self, t):
        return -jnp.ones_like(t)


class ScalarMarginal(Known):
    def marginal(self, t):
        return Marginal(jnp.ones(()), t)


class HalfMarginal(Known):
    def marginal(self, t):
        return Marginal(jnp.ones_like(t), t.astype(jnp.float16))


class CountingMarginal(Known):
    def marginal(self, t):
        return Marginal(jnp.ones_like(t), t * called())


class InfiniteDiffusion(Known):
    def diffusion(self, t):
        return 1.0 / (1.0 - t)


class NegativeDiffusion(Known):
    def diffusion(self, t):
        return -jnp.sqrt(2.0 * t)


class NoNoise(Known):
    def marginal(self, t):
        return Marginal(jnp.ones_like(t), jnp.zeros_like(t))


class DenoisingMarginal(Known):
    def marginal(self, t):
        return Marginal(jnp.ones_like(t), 2.0 - t)


class WrongPrior(Known):
    prior_std = 50.0


def negative():
    return GaussianPath(jnp.ones_like, lambda t: t * (1.2 - t))


def no_process():
    return 3


# --- solvers, grids, times, weightings --------------------------------------------------------------------------------
class Euler(StatelessSolver):
    follows = "flow"

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def step(self, keys, process, state, t, s):
        x = state.x + self.factor * (s - t) * process.drift(state.x, t)
        return state.moved(x, x)


class Still(Euler):
    """A corrector that moves nothing."""

    follows = "still"

    def step(self, keys, process, state, t, s):
        return state


class NoEvals(Euler):
    num_evals = 1.5


class ChangesShape(Euler):
    def step(self, keys, process, state, t, s):
        return SolverState(state.x[:, :1], state.x_mean)


class ReturnsNan(Euler):
    def step(self, keys, process, state, t, s):
        return SolverState(state.x * jnp.nan, state.x_mean)


class GrowsMemory(Euler):
    def step(self, keys, process, state, t, s):
        return SolverState(state.x, state.x, (*state.memory, state.x))


class CountsSteps(Euler):
    def step(self, keys, process, state, t, s):
        return SolverState(state.x * called(), state.x)


class FollowsNothing(Euler):
    follows = "nothing"


def no_solver():
    return "heun"


def halves(process, num_steps, t_end, root: float = 2.0):
    return jnp.linspace(1.0, t_end ** (1.0 / root), num_steps + 1) ** root


def one_time_less(process, num_steps, t_end):
    return jnp.linspace(1.0, t_end, num_steps)


def rises(process, num_steps, t_end):
    return jnp.linspace(t_end, 1.0, num_steps + 1)


def begins_late(process, num_steps, t_end):
    return jnp.linspace(0.9, t_end, num_steps + 1)


class Squares:
    """Times whose density is that of the square of a uniform number, and their weights."""

    def __init__(self, t0):
        self.t0 = t0

    def sample(self, key, n):
        u = jnp.maximum(jax.random.uniform(key, (n,)), 0.1)
        return TimeSamples(u**2, 2.0 * u)


def times(draw):
    def make():
        return type("Times", (), {"sample": lambda self, key, n: draw(key, n)})()

    return make


one_time = times(lambda key, n: TimeSamples(jnp.ones(1), jnp.ones(1)))
late_times = times(lambda key, n: TimeSamples(jnp.full(n, 2.0), jnp.ones(n)))
no_weights = times(lambda key, n: TimeSamples(jnp.full(n, 0.5), jnp.zeros(n)))
counted_times = times(lambda key, n: TimeSamples(jnp.full(n, 1.0 / called()), jnp.ones(n)))


def power(process, t, exponent: float = 2.0):
    return process.marginal(t).std ** exponent


def one_weight(process, t):
    return jnp.ones(())


def negative_weight(process, t):
    return -t


def nan_weight(process, t):
    return jnp.log(-t)


def counted_weight(process, t):
    return t * called()


VP_ITSELF = VP()
