"""The family under the training loop: minimizers in closed form, gradients that agree, parts that are parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.models.adapters import LinenNetwork
from score_sde.models.mlp import MLP
from score_sde.objectives import (
    CRITERIA,
    Denoising,
    Explicit,
    Implicit,
    LowDiscrepancyTimes,
    Sliced,
    criterion_loss,
    score_matching_loss,
    static_score,
    static_score_matching_loss,
    variance_weighting,
)
from score_sde.parameterization import NoisePrediction
from score_sde.state import state_of
from score_sde.training.step import make_train_step
from tests.analytic import SDES, Gaussian

DENSITY = Gaussian.correlated(2)
DATA = jnp.asarray(DENSITY.sample(4096), jnp.float32)
MEAN, COVARIANCE = np.asarray(DATA).mean(axis=0), np.cov(np.asarray(DATA).T, bias=True)


class Affine:
    """``A (x - b)`` scaled by the condition, which must be the one asked for."""

    def init(self, key, shape):
        return {"a": -jnp.eye(2), "b": jnp.zeros(2)}

    def apply(self, params, x, condition, *, key=None):
        return condition[:, None] * (x @ params["a"].T + params["b"][None])


TARGET = np.linalg.inv(COVARIANCE)
MEMBERS = {
    "explicit": (Explicit(target=lambda x: -(x - MEAN[None]) @ TARGET), TARGET, 3e-3),
    "implicit": (Implicit(), TARGET, 3e-3),
    "sliced": (CRITERIA["sliced"](num_projections=4), TARGET, 0.1),
    "sliced_vr": (Sliced(num_projections=4, projections="gaussian"), TARGET, 0.1),
    "denoising": (Denoising(std=0.5), np.linalg.inv(COVARIANCE + 0.25 * np.eye(2)), 0.1),
}
each_member = pytest.mark.parametrize("name", MEMBERS)


def train_step(loss_fn, tx, **options):
    return make_train_step(loss_fn, tx, prepare=lambda key, batch: batch, ema_rate=0.98, **options)


def test_the_table_has_all_members():
    assert set(MEMBERS) == set(CRITERIA)


@pytest.mark.sweep
@each_member
def test_training_finds_the_score_of_the_data(name):
    """Of an affine family on data with covariance C: -C^-1 (x - mean); with noise, that of C + sigma^2 I."""
    criterion, precision, tolerance = MEMBERS[name]
    loss_fn, tx = static_score_matching_loss(Affine(), criterion, condition=2.0), optax.adam(0.05)
    step = jax.jit(train_step(loss_fn, tx))
    state = state_of(Affine().init(None, None), tx, 0)
    for _ in range(400):
        state, _ = step(state, DATA)
    score = static_score(Affine(), state.ema_params, condition=2.0)
    np.testing.assert_allclose(score(jnp.asarray(MEAN)[None]), 0.0, atol=tolerance * precision.max())
    slope = np.asarray(jax.jacobian(lambda x: score(x[None])[0])(jnp.zeros(2)))
    np.testing.assert_allclose(slope, -precision, atol=tolerance * precision.max())


class Tilted:
    """A noise prediction with two parameters, for any number of dimensions, which it mixes."""

    def init(self, key, shape):
        return {"a": jnp.ones(()), "b": jnp.full((), 0.5)}

    def apply(self, params, x, condition, *, key=None):
        mixed = params["a"] * x + params["b"] * jnp.roll(x, 1, axis=1)
        return jnp.tanh(condition[:, None] / 999.0 * mixed + 0.2)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "sde"), [("implicit", "vp"), ("implicit", "ve"), ("sliced", "ve"), ("sliced_vr", "subvp")]
)
def test_at_all_noise_levels_the_gradient_is_that_of_denoising(name, sde):
    """And the value is 1 less per dimension: E |z|^2 / d, for the weighting is the variance."""
    sde = SDES[sde]
    options = {"times": LowDiscrepancyTimes(t0=0.05), "weighting": variance_weighting}
    denoising = score_matching_loss(sde, Tilted(), NoisePrediction(), **options)
    other = criterion_loss(sde, Tilted(), NoisePrediction(), MEMBERS[name][0], **options)
    params = Tilted().init(None, None)

    def difference(key):
        """On the same times and noise, which takes most of the variance away."""

        def both(params):
            value = denoising(params, key, DATA, train=False).mean()
            return value - other(params, key, DATA, train=False).mean(), value

        gap, value = jax.jacrev(both)(params)
        return both(params)[0], gap, value

    values, gradients, reference = jax.jit(lambda keys: jax.lax.map(difference, keys))(
        jax.random.split(jax.random.key(2), 60)
    )
    for gap, expected in ((values, 1.0), *((g, 0.0) for g in jax.tree.leaves(gradients))):
        gap = np.asarray(gap)
        error = gap.std(axis=0) / np.sqrt(len(gap))
        assert (np.abs(gap.mean(axis=0) - expected) < 5 * error + 1e-5).all(), (gap.mean(axis=0), error)
    sizes = [np.abs(np.asarray(g).mean(axis=0)).max() for g in jax.tree.leaves(reference)]
    noise = [np.asarray(g).std(axis=0).max() / np.sqrt(60) for g in jax.tree.leaves(gradients)]
    assert min(sizes) > 5 * max(noise)  # the equality is measured well enough to fail


def test_the_scale_is_that_of_denoising(key):
    """Half the sum, or the mean over the event without the half; the times are those of the denoising loss."""
    sde, options = SDES["vp"], {"times": LowDiscrepancyTimes(t0=0.05), "weighting": variance_weighting}
    wide, params = jnp.tile(DATA[:12], (1, 3)), Tilted().init(None, None)

    def losses(reduce_mean):
        loss_fn = criterion_loss(sde, Tilted(), NoisePrediction(), Sliced(), reduce_mean=reduce_mean, **options)
        return loss_fn(params, key, wide, train=True)

    np.testing.assert_allclose(losses(True), losses(False) * 2 / 6, rtol=1e-6)


@pytest.mark.slow
def test_dropout_is_on_in_training_and_off_in_evaluation(key):
    network = LinenNetwork(MLP(features=16, num_blocks=1, dropout=0.5))
    # Noise on the parameters: in a new network the kernel after the dropout is zero.
    leaves, structure = jax.tree.flatten(network.init(key, (1, 2)))
    noise = [0.3 * jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(structure, [leaf + z for leaf, z in zip(leaves, noise, strict=True)])
    loss_fn = static_score_matching_loss(network, Explicit(target=lambda x: -x), condition=3.0)
    keys = jax.random.split(key)
    rest, train = ([loss_fn(params, k, DATA[:16], train=train) for k in keys] for train in (False, True))
    np.testing.assert_array_equal(*rest)
    assert float(jnp.median(jnp.abs(train[0] - train[1]))) > 0.05  # of losses of about 1
