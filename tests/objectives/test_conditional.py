"""Training on labels: a share of the examples loses its own, in any batch, and a network that reads none is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.errors import UserError
from score_sde.labels import Conditioned, Labeled
from score_sde.models.adapters import LinenNetwork
from score_sde.models.mlp import MLP
from score_sde.models.ncsnpp import NCSNpp
from score_sde.objectives import UniformTimes, class_conditional, score_matching_loss, variance_weighting
from score_sde.objectives.conditional import dropped
from score_sde.parameterization import NoisePrediction
from score_sde.sdes import VP
from score_sde.state import state_of
from score_sde.training.labels import check_reads_labels
from score_sde.training.step import make_train_step


class ByClass:
    """Noise that is linear in the data, with an offset for each class; the last row is of no class."""

    def init(self, key, shape):
        return {"offset": jax.random.normal(key, (4, *shape[1:])), "slope": jnp.ones(())}

    def apply(self, params, x, condition, *, label=None, key=None):
        return params["slope"] * x + params["offset"][jnp.full(x.shape[:1], -1) if label is None else label]


NETWORK = ByClass()
PLAIN = score_matching_loss(VP(), NETWORK, NoisePrediction(), times=UniformTimes(t0=0.05), weighting=variance_weighting)
BATCH = Labeled(jax.random.normal(jax.random.key(1), (12, 2)), jnp.arange(12) % 3)


@pytest.fixture(scope="module")
def params():
    return NETWORK.init(jax.random.key(2), (1, 2))


def test_labels_are_dropped_with_the_probability_and_each_for_itself(key):
    gone = np.asarray(dropped(key, jnp.zeros((20_000, 1)), 0.3), float)
    assert abs(gone.mean() - 0.3) < 5 * np.sqrt(0.21 / 20_000)
    both = (gone[1:] * gone[:-1]).mean()
    assert abs(both - 0.09) < 5 * np.sqrt(0.09 / 20_000)
    np.testing.assert_array_equal(dropped(key, jnp.zeros((7, 3)), 0.3), gone[:7])
    assert (np.asarray(dropped(jax.random.key(1), jnp.zeros((20_000, 1)), 0.3)) != gone).mean() > 0.3


@pytest.mark.parametrize("batch", [BATCH.data, np.asarray(BATCH.data)], ids=["jax", "numpy"])
def test_a_batch_without_labels_is_told(params, key, batch):
    with pytest.raises(UserError, match=r"The batch is of type .*, without labels; expected Labeled\(data, label\)"):
        class_conditional(PLAIN)(params, key, batch, train=True)


def test_the_loss_of_a_class_is_the_loss_of_its_network_and_dropping_all_labels_leaves_no_class(params, key):
    for probability, label in ((0.0, BATCH.label), (1.0, jnp.full(12, -1))):
        loss = class_conditional(PLAIN, probability)
        expected = PLAIN(Conditioned(params, label), key, BATCH.data, train=True)
        np.testing.assert_array_equal(loss(params, key, BATCH, train=True), expected)
        # Without the key of dropout nothing is dropped.
        known = PLAIN(Conditioned(params, BATCH.label), key, BATCH.data, train=False)
        np.testing.assert_array_equal(loss(params, key, BATCH, train=False), known)
    half = class_conditional(PLAIN, 0.5)(params, key, BATCH, train=True)
    with_label, without = (class_conditional(PLAIN, p)(params, key, BATCH, train=True) for p in (0.0, 1.0))
    taken = np.asarray(half == without)
    assert 0 < taken.sum() < 12
    np.testing.assert_array_equal(half, jnp.where(taken, without, with_label))


def test_the_parts_of_a_batch_have_the_labels_and_the_gradient_of_the_whole(params):
    tx = optax.sgd(1.0)

    def gradient(accumulate):
        options = {"prepare": lambda key, data: 2.0 * data, "ema_rate": 0.9, "accumulate": accumulate}
        step = jax.jit(make_train_step(class_conditional(PLAIN, 0.5), tx, **options))
        state, metrics = step(state_of(params, tx, 0), BATCH)
        return metrics["loss"], jax.tree.map(jnp.subtract, params, state.params)

    whole, parts = gradient(1), gradient(3)
    assert all(float(jnp.abs(row).max()) > 1e-3 for row in whole[1]["offset"])  # every class, and none
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parts, whole)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(probability):
    with pytest.raises(UserError, match="null_probability is"):
        class_conditional(PLAIN, probability)


class Deaf(LinenNetwork):
    """A network that takes labels and ignores them."""

    def apply(self, params, x, condition, *, label=None, key=None):
        return super().apply(params, x, condition, key=key)


SMALL = {"features": 8, "num_blocks": 1, "num_classes": 3}


def test_a_network_that_ignores_its_label_is_refused():
    check_reads_labels(LinenNetwork(MLP(**SMALL)), (2,))
    with pytest.raises(UserError, match="The network ignores its label: its output is the same for class 0 and for no"):
        check_reads_labels(Deaf(MLP(**SMALL)), (2,))


@pytest.mark.slow
@pytest.mark.parametrize("init_scale", [0.0, 1.0])
def test_a_network_that_begins_at_zero_is_seen_to_read_its_label(init_scale):
    image = {"channel_multipliers": (1,), "attention_resolutions": (), "init_scale": init_scale}
    check_reads_labels(LinenNetwork(NCSNpp(**SMALL, **image)), (4, 4, 1))
