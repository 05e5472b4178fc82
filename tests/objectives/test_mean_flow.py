"""Average velocities: flow matching where both times are one, and exact where the flow is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.average_velocity import make_average_fn
from score_sde.errors import UserError
from score_sde.models.adapters import LinenNetwork
from score_sde.models.mlp import MLP
from score_sde.models.ncsnpp import NCSNpp
from score_sde.objectives import (
    AdaptiveError,
    LowDiscrepancyTimes,
    UniformTimes,
    flow_weighting,
    mean_flow_loss,
    score_matching_loss,
)
from score_sde.parameterization import NoisePrediction, VelocityPrediction, make_score_fn
from score_sde.sdes import RectifiedFlow
from score_sde.solvers import MeanFlowSteps
from tests.few_steps import Averages, corners
from tests.laws import SDES, float64

PATH, STD, KIND = RectifiedFlow(), 0.5, VelocityPrediction()
SQUARED = {"error": AdaptiveError(power=0.0, offset=0.0)}


class Bent:
    """A network of both times, which is no solution of anything."""

    def init(self, key, shape):
        return {"w": jnp.float32(0.7)}

    def apply(self, params, x, condition, *, label=None, key=None, span=None):
        both = condition if span is None else condition + 100.0 * span
        return params["w"] * jnp.tanh(x) + 0.3 * jnp.sin(both / 500.0)[:, None]


class WithoutSpan(nn.Module):
    """A module of one time."""

    @nn.compact
    def __call__(self, x, condition):
        return x


@pytest.mark.sweep(3)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_with_one_time_it_is_flow_matching(sde, key):
    x, times, params = 0.5 * jax.random.normal(jax.random.key(1), (64, 2)), LowDiscrepancyTimes(t0=0.05), {"w": 0.7}
    average = mean_flow_loss(sde, Bent(), KIND, times=times, apart=0.0, **SQUARED)
    matching = score_matching_loss(sde, Bent(), KIND, times=times, weighting=flow_weighting)
    found, expected = (loss(params, key, x, train=True) for loss in (average, matching))
    np.testing.assert_allclose(found, expected, rtol=5e-3)


@pytest.mark.parametrize(("t", "s"), [(0.7, 0.2), (1.0, 0.0), (0.4, 0.4)])
def test_the_exact_average_velocity_satisfies_the_identity_and_is_the_minimizer(t, s):
    """Of any two times, in the mean over all paths through a point, which is exact here."""
    with float64():
        x0, z = corners(STD)
        loss = mean_flow_loss(PATH, Averages(PATH, STD), KIND, times=UniformTimes(), **SQUARED)
        m, std = PATH.marginal(jnp.asarray(t))
        draws = (jnp.full(4, t), jnp.full(4, s), jnp.ones(4), m * x0 + std * z, z)

        def gradient(a):
            return float(jax.grad(lambda p: loss.losses(p, x0, draws, None).mean())({"a": jnp.asarray(a)})["a"])

        assert abs(gradient(0.0)) < 1e-10
        assert gradient(0.1) > 1e-3 > -1e-3 > gradient(-0.1)


def test_steps_of_the_exact_average_velocity_follow_the_flow_whatever_their_number():
    with float64():
        start = jnp.linspace(-2.0, 2.0, 6)[:, None]
        keys = sampling.sample_keys(jax.random.key(0), 0, 6)
        score = make_average_fn(Averages(PATH, STD), KIND, PATH, {"a": jnp.zeros(())})
        expected = start * STD / jnp.sqrt((PATH.end * STD) ** 2 + 1.0)  # x_0 = x_1 std / spread(1)
        for grid in ([1.0, 1e-9], [1.0, 0.6, 0.3, 1e-9]):
            process = PATH.reverse(score, noise_scale=0.0)
            end = sampling.integrate(keys, MeanFlowSteps(), process, start, jnp.array(grid)).x
            np.testing.assert_allclose(end, expected, rtol=1e-6)
        with pytest.raises(UserError, match="no method average"):
            plain = make_score_fn(Averages(PATH, STD), NoisePrediction(), PATH, {"a": jnp.zeros(())})
            sampling.integrate(keys, MeanFlowSteps(), PATH.reverse(plain), start, jnp.array([1.0, 0.5]))


def test_a_share_of_the_examples_has_two_times_and_the_later_one_has_the_noise(key):
    times = LowDiscrepancyTimes(t0=0.1)
    loss = mean_flow_loss(PATH, Bent(), KIND, times=times, apart=0.25)
    (t, s, _, xt, z), _ = loss.draw(key, jnp.zeros((4000, 1)))
    assert abs(float((s < t).mean()) - 0.25) < 0.03
    assert float(s.min()) >= 0.1 and bool((s <= t).all())
    np.testing.assert_allclose(xt[:, 0], t * z[:, 0], rtol=1e-6)
    apart = s < t
    # Two draws in an even spread are as independent as others: the earlier one has the law of a minimum, 0.1 + 0.9 / 3.
    assert abs(float(s[apart].mean()) - 0.4) < 0.03


def changed(params):
    """Parameters that are in no special place."""
    return jax.tree.map(lambda value: value + 0.3 * jnp.cos(jnp.arange(value.size)).reshape(value.shape), params)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["mlp", "ncsnpp"])
def test_a_network_that_is_told_two_times_begins_as_one_that_knows_one(name, key):
    if name == "mlp":
        module, shape = lambda **more: MLP(features=8, num_blocks=1, dropout=0.0, **more), (3, 2)
    else:
        fields = {"features": 4, "channel_multipliers": (1,), "num_blocks": 1, "dropout": 0.0, "init_scale": 1.0}
        module, shape = lambda **more: NCSNpp(**fields, **more), (3, 4, 4, 1)
    network, one = LinenNetwork(module(spans=True)), LinenNetwork(module())
    params = {  # of a trained network but for the span
        name: leaf if name == "span" else changed(leaf) for name, leaf in network.init(key, shape).items()
    }
    x, t, span = jax.random.normal(key, shape), jnp.full(3, 0.5), jnp.array([0.0, 0.1, 1.0])
    later = params | {"span": changed(params["span"])}
    first, moved = (network.apply(own, x, t, span=span) for own in (params, later))
    plain = one.apply({name: value for name, value in params.items() if name != "span"}, x, t)
    np.testing.assert_allclose(first, plain, rtol=1e-5, atol=1e-12)
    assert float(jnp.abs(moved - first).max()) > 1e-3  # afterwards it heeds the second time
    with pytest.raises(UserError, match="takes no argument 'span'"):
        LinenNetwork(WithoutSpan()).apply({}, x, t, span=span)
