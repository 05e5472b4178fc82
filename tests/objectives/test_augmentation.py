"""Augmentations: their law, what is told of them, and that nothing is told and nothing changes in a measurement."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import default_config
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.labels import Labeled
from score_sde.models.adapters import LinenNetwork
from score_sde.models.edm2 import EDM2
from score_sde.models.ncsnpp import NCSNpp
from score_sde.objectives import ToldAugmentations, augmented, class_conditional
from score_sde.objectives.augmentation import NUM_AUGMENTATIONS, Augmentations, augment, draw_augmentations, told
from score_sde.training.step import part_of
from score_sde.typing import Loss
from tests.models.test_models import _jit, _normal, _trained

SMALL = {"features": 8, "channel_multipliers": (1,), "num_blocks": 1, "attention_resolutions": (), "dropout": 0.0}
SHAPE = (8, 8, 1)
#: An image whose eight images under turns and mirrors differ, and whose shifts too.
IMAGE = np.arange(64.0, dtype=np.float32).reshape(SHAPE)


def drawn(probability, count=20_000, shape=SHAPE):
    x = jnp.broadcast_to(jnp.asarray(IMAGE), (count, *SHAPE)) if shape == SHAPE else jnp.zeros((count, *shape))
    found = draw_augmentations(jax.random.key(0), x, probability)
    return x, found


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_each_kind_is_drawn_by_itself_and_evenly_among_all_of_its_kind(probability):
    _, found = drawn(probability)
    flags = np.stack([found.mirrored, found.inverted], axis=1)
    count, close = len(flags), 4.0 * 0.5 / np.sqrt(len(flags))
    np.testing.assert_allclose(flags.mean(axis=0), probability / 2, atol=close)
    turns = np.bincount(found.turns, minlength=4) / count
    np.testing.assert_allclose(turns[1:], probability / 4, atol=close)
    places, counts = np.unique(found.shift, axis=0, return_counts=True)
    expected = {place: probability / 9 for place in itertools.product((-1, 0, 1), repeat=2)}  # an eighth of the side
    expected[0, 0] += 1.0 - probability
    shares = dict(zip(map(tuple, places.tolist()), counts / count, strict=True))
    for place, share in expected.items():
        assert abs(shares.get(place, 0.0) - share) < close
    # Independent of one another: the share of images as they are is a product.
    still = ~flags.any(axis=1) & (found.turns == 0) & ~np.asarray(found.shift).any(axis=1)
    untouched = (1 - probability / 2) ** 2 * (1 - 3 * probability / 4) * (1 - 8 * probability / 9)
    assert abs(still.mean() - untouched) < close


def test_with_probability_one_every_turn_and_mirror_image_is_equally_frequent():
    x, found = drawn(1.0)
    still = found._replace(shift=jnp.zeros_like(found.shift))
    images = np.asarray(augment(x, still)).reshape(len(x), -1)
    distinct, counts = np.unique(images, axis=0, return_counts=True)
    assert len(distinct) == 8  # the symmetries of a square
    np.testing.assert_allclose(counts / len(x), 1 / 8, atol=4.0 * 0.33 / np.sqrt(len(x)))
    np.testing.assert_array_equal(np.sort(distinct, axis=1), np.broadcast_to(IMAGE.ravel(), (8, 64)))


def test_what_is_told_determines_the_change_and_is_zero_for_none():
    x, found = drawn(0.7, 5000)
    numbers, images = np.asarray(told(x, found)), np.asarray(augment(x, found)).reshape(len(x), -1)
    assert numbers.shape == (5000, NUM_AUGMENTATIONS) and np.abs(numbers).max() <= 1.0
    joined = np.unique(np.concatenate([numbers, images], axis=1), axis=0)
    assert len(joined) == len(np.unique(numbers, axis=0))  # one image for each
    same = (images == IMAGE.ravel()).all(axis=1)
    plain = ~numbers.any(axis=1)
    assert plain.any() and np.all(same[plain])


def test_a_shift_reflects_what_is_beyond_the_border_and_others_than_squares_are_not_turned():
    no, one = jnp.array([False]), jnp.array([0])
    row = jnp.arange(9.0).reshape(1, 1, 9, 1)
    for shift, expected in ((1, [1, 0, 1, 2, 3, 4, 5, 6, 7]), (-2, [2, 3, 4, 5, 6, 7, 8, 7, 6])):
        found = augment(row, Augmentations(no, no, one, jnp.array([[0, shift]])))
        assert found.ravel().tolist() == expected
    _, found = drawn(1.0, 300, (16, 4, 1))
    assert not np.any(found.turns) and not np.any(found.shift[:, 1]) and np.abs(found.shift[:, 0]).max() == 2


def seen(params, batch, draws, key):
    """A loss that shows what it is called with."""
    given = params.get("told", jnp.zeros((batch.shape[0], 1)))
    return batch.sum(axis=(1, 2, 3)) * params["w"] + draws[:, 0] + 100.0 * jnp.abs(given).sum(axis=1)


PLAIN = Loss(lambda key, x: (jax.random.normal(key, (x.shape[0], 1)) + x[:, 0, 0], key), seen)


def test_with_probability_zero_the_loss_has_the_same_bits(key):
    x, params = _normal(0, 6, *SHAPE), {"w": jnp.float32(0.7)}
    loss = augmented(PLAIN, 0.0)
    np.testing.assert_array_equal(loss(params, key, x, train=True), PLAIN(params, key, x, train=True))
    moved = augmented(PLAIN, 1.0)(params, key, x, train=True)
    assert float(jnp.abs(moved - PLAIN(params, key, x, train=True)).max()) > 10.0


@pytest.mark.slow
def test_parts_of_a_batch_are_augmented_as_the_whole_and_labels_stay(key):
    x, params = _normal(0, 6, *SHAPE), {"w": jnp.float32(0.7)}
    loss = augmented(PLAIN, 0.8)
    draws, _ = loss.draw(key, x)
    whole = loss.losses(params, x, draws, key)
    for index in (0, 1):
        part, own = part_of((x, draws), index, 2)
        np.testing.assert_array_equal(loss.losses(params, part, own, key), whole[index::2])
    batch = Labeled(x, jnp.arange(6))
    by_class = Loss(PLAIN.draw, lambda params, *rest: seen(params.params, *rest) + 1000.0 * params.label)
    found = augmented(class_conditional(by_class, 0.0), 0.8)(params, key, batch, train=True)
    plain = augmented(PLAIN, 0.8)(params, key, x, train=True)
    np.testing.assert_allclose(found - 1000.0 * jnp.arange(6), plain, atol=1e-2)


def test_a_network_that_is_told_nothing_is_told_of_no_change():
    """So it is in sampling and in likelihoods, which give parameters and nothing beside them."""
    network = ToldAugmentations(LinenNetwork(NCSNpp(**SMALL, augments=True)))
    params, x, t = _trained(network, SHAPE), _normal(1, 2, *SHAPE), jnp.array([10.0, 500.0])
    apply = _jit(lambda changes: network.apply({**params, "told": changes}, x, t))
    plain = _jit(lambda: network.apply(params, x, t))()
    np.testing.assert_allclose(apply(jnp.zeros((2, NUM_AUGMENTATIONS))), plain, rtol=1e-5, atol=1e-6)
    for kind in range(NUM_AUGMENTATIONS):
        changes = jnp.zeros((2, NUM_AUGMENTATIONS)).at[:, kind].set(1.0)
        assert float(jnp.abs(apply(changes) - plain).max()) > 1e-3
    with pytest.raises(UserError, match="EDM2 takes no argument 'augmentations', how its images were changed"):
        other = ToldAugmentations(LinenNetwork(EDM2(**SMALL)))
        other.apply({"told": jnp.zeros((2, NUM_AUGMENTATIONS))}, x, t)


def built(shape=SHAPE, levels=17, network=None, **changes):
    config = default_config()
    fields = {f"model.{name}": value for name, value in SMALL.items()} | {"training.batch_size": 4}
    config.update_from_flattened_dict(fields | changes)
    return Experiment.from_config(config, shape, levels, purposes={"train"}, network=network)


def test_a_run_has_them_in_training_alone_and_only_if_it_is_asked_for():
    runs = [built(**{"objective.augment_probability": p}) for p in (0.0, 1.0)]
    shapes = [jax.eval_shape(run.init_state).params for run in runs]
    assert set(shapes[1]) - set(shapes[0]) == {"augmentations"}
    state, levels = _jit(runs[1].init_state)(), np.asarray(IMAGE[None].repeat(4, 0) % 17, np.uint8)
    key, x = jax.random.key(0), jnp.asarray(IMAGE)[None] / 32.0 - 1.0
    text = str(jax.make_jaxpr(lambda params: runs[1].loss(params, key, x, train=False))(state.params))
    assert " rev[" not in text  # a measurement mirrors nothing
    step = str(jax.make_jaxpr(runs[1].train_step)(state, levels))
    assert re.search(r":f32\[8,8,1\] = rev\[|:f32\[4,8,8,1\] = rev\[", step)


REFUSED = {
    "edm2": ({"model.name": "edm2"}, "model.name=edm2 is not told how images were changed.*one of ncsnpp, ddpm"),
    "points": ({"model.name": "mlp", "shape": (2,), "levels": None}, r"the data have shape \(2,\), and are no images"),
    "a network of one's own": ({"network": LinenNetwork(NCSNpp(**SMALL))}, "a network of your own is not told"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_augmented_is_refused_with_a_sentence(case):
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        built(**{"objective.augment_probability": 0.12}, **changes)
