"""Magnitudes: layers preserve them, of weights only directions count, and training keeps the weights at length 1."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.config import default_config
from score_sde.distributed import replicated
from score_sde.experiment import Experiment
from score_sde.fields import DEFAULTS
from score_sde.models.adapters import LinenNetwork
from score_sde.models.edm2 import EDM2, Block
from score_sde.models.magnitudes import (
    WEIGHT,
    ClassVectors,
    CosineAttention,
    FourierFeatures,
    MPConv,
    MPDense,
    mp_cat,
    mp_silu,
    mp_sum,
    unit_weights,
)
from score_sde.training.ema import power_averages
from score_sde.training.optim import make_optimizer, projected
from tests.models.test_models import _jit, _normal

SMALL = {"features": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_resolutions": (4,), "dropout": 0.0}
NETWORK = LinenNetwork(EDM2(**SMALL, num_classes=3, fourier_scale=0.25))
SHAPE = (8, 8, 1)


def applied(module, *arguments):
    """The output of a module whose parameters are drawn as it draws them."""
    return module.apply({"params": module.init(jax.random.key(3), *arguments)["params"]}, *arguments)


def inner(x):
    """Pixels whose neighbors are all in the image: zeros around it have no magnitude."""
    return x[:, 2:-2, 2:-2]


X, Y, CONDITION = (2, 24, 24, 48), (2, 24, 24, 16), np.linspace(-8.0, 5.0, 400)
LAYERS = {
    "convolution": lambda: inner(applied(MPConv(64), _normal(0, *X))),
    "convolution of a series": lambda: applied(MPConv(64), _normal(0, 20, 60, 48))[:, 1:-1],
    "dense": lambda: applied(MPDense(64), _normal(0, *X)),
    "silu": lambda: mp_silu(_normal(0, *X)),
    "sum": lambda: mp_sum(_normal(0, *X), _normal(1, *X), 0.3),
    "side by side": lambda: mp_cat(_normal(0, *X), _normal(1, *Y), 0.3),
    "frequencies": lambda: applied(FourierFeatures(256, 0.25), jnp.asarray(CONDITION, jnp.float32)),
    "classes": lambda: applied(ClassVectors(10, 64), jnp.arange(10), jnp.zeros(10)),
    "no class": lambda: applied(ClassVectors(9, 4000), jnp.full(1, -1), jnp.zeros(1)),
    "block down": lambda: inner(applied(Block(64, down=True), 7.0 * _normal(0, *X), _normal(1, 2, 8), False)),
    "block up": lambda: inner(applied(Block(64), _normal(0, *X), _normal(1, 2, 8), False)),
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_makes_numbers_of_magnitude_one_of_such_numbers(name):
    assert abs(float(jnp.mean(jnp.square(LAYERS[name]()))) - 1.0) < 0.06


def test_attention_preserves_the_magnitude_of_equal_pixels_and_averages_others():
    equal = jnp.broadcast_to(_normal(0, 4, 1, 1, 64), (4, 6, 6, 64))
    for x, low, high in ((equal, 0.8, 1.2), (_normal(1, 4, 6, 6, 64), 0.7, 0.9)):
        assert low < float(jnp.mean(jnp.square(applied(CosineAttention(0.3), x)))) < high  # 0.49 / 0.58 of the input


@functools.cache
def trained():
    """Parameters as if trained: every gain is one, so that every weight matters."""
    params = _jit(NETWORK.init, static_argnums=1)(jax.random.key(0), (1, *SHAPE))
    return jax.tree.map_with_path(lambda path, p: jnp.ones(()) if path[-1].key == "gain" else p, params)


def weights_of(params):
    found = {jax.tree_util.keystr(path): p for path, p in jax.tree.leaves_with_path(params) if path[-1].key == WEIGHT}
    return {name: p.reshape(-1, p.shape[-1]) for name, p in found.items()}


def magnitudes(params):
    """The mean squares of the weights of all outputs."""
    return np.concatenate([np.mean(np.square(w), axis=0) for w in weights_of(params).values()])


@functools.cache
def compiled():
    condition, labels = jnp.array([-2.0, 0.3]), jnp.array([1, -1])

    def output(params, x):
        return NETWORK.apply(params, x, condition, label=labels)

    return _jit(output), _jit(jax.grad(lambda params, x: jnp.sum(jnp.sin(3.0 * output(params, x)))))


def test_of_weights_only_the_direction_counts_and_gradients_are_orthogonal_to_them():
    apply, gradient = compiled()
    params, x = trained(), _normal(0, 2, *SHAPE)
    # Each output of each layer gets another length.
    longer = jax.tree.map_with_path(
        lambda path, p: p * jnp.broadcast_to(1.0 + jnp.arange(p.shape[-1]), p.shape) if path[-1].key == WEIGHT else p,
        params,
    )
    np.testing.assert_allclose(apply(longer, x), apply(params, x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(magnitudes(unit_weights(longer)), 1.0, rtol=1e-5)
    slopes = weights_of(gradient(params, x))
    for name, weight in weights_of(params).items():
        along = np.sum(weight * slopes[name], axis=0)
        size = np.linalg.norm(weight, axis=0) * np.linalg.norm(slopes[name], axis=0)
        assert np.all(size > 0.0) and np.all(np.abs(along) < 1e-4 * size), name


def test_a_fresh_network_says_zero():
    params = _jit(NETWORK.init, static_argnums=1)(jax.random.key(0), (1, *SHAPE))
    assert not np.any(compiled()[0](params, _normal(0, 2, *SHAPE)))


def test_updates_make_weights_longer_unless_they_are_projected():
    """A step orthogonal to a vector makes it longer; averages see the parameters that training goes on with."""
    x, layer = _normal(0, 64, 5), MPDense(3)
    params = layer.init(jax.random.key(0), x)["params"]

    def run(tx):
        own, state, found = params, tx.init(params), []
        for _ in range(5):
            grads = jax.grad(lambda p: jnp.mean(jnp.sin(layer.apply({"params": p}, x))))(own)
            updates, state = tx.update(grads, state, own)
            own = optax.apply_updates(own, updates)
            found.append(magnitudes(own))
        return np.stack(found), own, state

    free, _, _ = run(optax.sgd(1.0))
    assert np.all(np.diff(free, axis=0) > 0.0) and np.all(free > 1.0)
    kept, moved, _ = run(optax.chain(optax.sgd(1.0), projected(unit_weights)))
    np.testing.assert_allclose(kept, 1.0, rtol=1e-6)
    assert float(jnp.abs(moved[WEIGHT] - params[WEIGHT]).max()) > 0.01
    optim = dataclasses.replace(DEFAULTS.optim, lr=0.5, warmup=0, ema_widths=(0.1,))
    _, own, state = run(make_optimizer(optim, project=unit_weights))
    assert float(jnp.abs(own[WEIGHT]).max()) > 0.1
    newest = np.linalg.norm(power_averages(state)[0.1][WEIGHT], axis=0)
    assert np.all(newest <= np.sqrt(5.0) + 1e-5)  # a mean of vectors of one length is no longer than they are


@pytest.mark.slow
def test_training_keeps_the_weights_at_length_one():
    config = default_config()
    fields = {f"model.{name}": value for name, value in {"name": "edm2", **SMALL}.items()}
    config.update_from_flattened_dict(fields | {"optim.warmup": 0, "optim.lr": 0.1, "training.batch_size": 4})
    run = Experiment.from_config(config, SHAPE, 17)
    state, levels = jax.device_put(_jit(run.init_state)(), replicated(run.mesh)), np.zeros((4, *SHAPE), np.uint8)
    step = _jit(run.train_step)
    for _ in range(3):
        before, (state, _) = state, step(state, levels)
    np.testing.assert_allclose(magnitudes(state.params), 1.0, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), weights_of(before.params), weights_of(state.params))
    assert sum(size > 1e-3 for size in moved.values()) > 0.9 * len(moved)
