"""Consistency models: between denoising and the flow, and exact where the flow is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.errors import UserError
from score_sde.labels import Labeled
from score_sde.objectives import (
    AdaptiveError,
    LowDiscrepancyTimes,
    class_conditional,
    consistency_loss,
    consistency_training,
    score_matching_loss,
    variance_weighting,
)
from score_sde.parameterization import PARAMETERIZATIONS, DataPrediction, NoisePrediction, denoise, make_score_fn
from score_sde.sdes import EDM, VP
from score_sde.solvers import ConsistencySteps
from tests.analytic import Gaussian
from tests.few_steps import Ends, FixedTimes, corners
from tests.laws import SDES, float64

KEEPING = {name: cls for name, cls in PARAMETERIZATIONS.items() if cls.keeps_data}
SQUARED = {"error": AdaptiveError(power=0.0, offset=0.0)}


class Bent:
    """A network with one parameter, which is no solution of anything."""

    def init(self, key, shape):
        return {"w": jnp.float32(0.7)}

    def apply(self, params, x, condition, *, label=None, key=None):
        shift = 0.0 if label is None else 0.1 * label[:, None]
        return params["w"] * jnp.tanh(x) + 0.3 * jnp.sin(condition)[:, None] + shift


@pytest.mark.sweep(3)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_with_the_widest_gap_a_consistency_model_is_a_denoiser(sde, key):
    """The data are the target then, and the loss is the one of denoising under equal weights in noise space."""
    x, times = 0.5 * jax.random.normal(jax.random.key(1), (64, 2)), LowDiscrepancyTimes(t0=0.05)
    for make in KEEPING.values():
        parts = (sde, Bent(), make())
        widest = consistency_loss(*parts, times=times, gap=1.0, **SQUARED)
        plain = score_matching_loss(*parts, times=times, weighting=variance_weighting)
        params = Bent().init(key, (1, 2))
        losses = [
            jax.value_and_grad(lambda p, loss=loss: loss(p, key, x, train=True).mean()) for loss in (widest, plain)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3), *(loss(params) for loss in losses))


@pytest.mark.parametrize("name", [name for name, cls in PARAMETERIZATIONS.items() if not cls.of_levels])
def test_of_data_the_end_of_the_flow_is_the_data(name):
    """Whatever the network, unless it predicts the data themselves."""
    sde, parameterization = EDM(sigma_max=10.0), PARAMETERIZATIONS[name]()
    x, t = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), jnp.full(4, 1e-7)
    end = denoise(sde, make_score_fn(Bent(), parameterization, sde, {"w": 0.7}), x, t)
    assert bool(jnp.allclose(end, x, atol=1e-4)) is parameterization.keeps_data
    if not parameterization.keeps_data:
        with pytest.raises(UserError, match="does not return data as they are"):
            consistency_loss(sde, Bent(), DataPrediction(), times=LowDiscrepancyTimes(), gap=0.5)


@pytest.mark.sweep
@pytest.mark.parametrize("sde", [EDM(sigma_max=10.0), VP()], ids=["edm", "vp"])
def test_the_exact_end_of_the_flow_is_where_training_stands_still(sde):
    """With the gap the gradient at it vanishes beside others in the same way. Expectations are exact: all is linear."""
    std = 0.5
    with float64():
        x0, z = corners(std)
        network = Ends(sde, std)

        def gradient(a, gap, t):
            loss = consistency_loss(sde, network, NoisePrediction(), times=FixedTimes(t), gap=gap, **SQUARED)
            (times, weight, _, _), _ = loss.draw(jax.random.key(0), x0)
            m, s = (part[:, None] for part in sde.marginal(times))
            draws = (times, weight, m * x0 + s * z, z)
            return float(jax.grad(lambda p: loss.losses(p, x0, draws, None).mean())({"a": jnp.asarray(a)})["a"])

        for t in (0.1, 0.4):
            wide, narrow = (gradient(0.0, gap, t) / gradient(0.1, gap, t) for gap in (1e-3, 1e-4))
            assert abs(narrow / wide - 0.1) < 0.01
            assert abs(narrow) < 0.01


def test_the_exact_end_of_the_flow_does_not_change_along_the_flow():
    """So it is the sample of one step, and the law of the samples is the one of the data after any steps."""
    density = Gaussian.correlated(dim=3)
    with float64():
        sde, x = EDM(sigma_max=10.0), jnp.asarray(density.sample(6))

        def score(x, t):
            """The score whose denoised sample is the end of the flow."""
            ends = jax.vmap(lambda x, t: density.flow(sde, x[None], t, 0.0)[0])(x, t)
            return (ends - x) / sde.marginal(t).std[:, None] ** 2

        starts = density.flow(sde, x, 0.0, 1.0)
        process = sde.reverse(score)
        keys = sampling.sample_keys(jax.random.key(0), 0, 6)
        for t in (1.0, 0.3):
            there = density.flow(sde, starts, 1.0, t)
            one = sampling.integrate(keys, ConsistencySteps(), process, there, jnp.array([t, 1e-6]))
            np.testing.assert_allclose(one.x_mean, x, rtol=1e-7)
        many = jnp.asarray(density.sample(40_000))
        keys = sampling.sample_keys(jax.random.key(1), 0, len(many))
        end = sampling.integrate(
            keys, ConsistencySteps(), process, density.flow(sde, many, 0.0, 1.0), jnp.array([1.0, 0.2, 0.05, 1e-6])
        )
        end = np.asarray(end.x_mean)
    np.testing.assert_allclose(np.cov(end.T), density.covariance, atol=5 * 0.25 * np.sqrt(2 / len(many)))
    np.testing.assert_allclose(end.mean(axis=0), density.mean, atol=5 * 0.5 / np.sqrt(len(many)))


def test_the_gap_shrinks_in_stages_and_the_loss_without_a_step_is_the_last(key):
    x, params = jax.random.normal(jax.random.key(1), (16, 2)), {"w": jnp.float32(0.7)}
    parts, times = (EDM(sigma_max=10.0), Bent(), NoisePrediction()), LowDiscrepancyTimes(t0=0.05)
    loss = consistency_training(*parts, times=times, gap_divisor=2.0, gap_every=10, num_steps=31)

    def at(gap):
        return consistency_loss(*parts, times=times, gap=gap)(params, key, x, train=False)

    of_step = jax.jit(lambda step: loss.at(step)(params, key, x, train=False))
    for step, gap in {9: 0.5, 10: 0.25}.items():
        np.testing.assert_allclose(of_step(step), at(gap), rtol=2e-3)
    np.testing.assert_allclose(loss(params, key, x, train=False), at(1 / 16), rtol=2e-3)
    assert float(jnp.abs(at(0.5) - at(1 / 16)).max()) > 0.1
    labeled = class_conditional(loss, 0.0)
    batch = Labeled(x, jnp.zeros(16, jnp.int32))
    np.testing.assert_allclose(labeled.at(jnp.int32(10))(params, key, batch, train=False), at(0.25), rtol=2e-3)
