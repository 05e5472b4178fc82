"""Networks of variational autoencoders: they learn, their variances are what they say, and sizes are checked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.data import load_source
from score_sde.errors import UserError
from score_sde.likelihood import Quantization
from score_sde.models.vae import make_vae
from score_sde.state import state_of
from score_sde.training.step import make_train_step
from score_sde.variational import (
    LatentVariableModel,
    elbo,
    importance_bound,
    sample_from_prior,
    vae_loss,
)

QUANTIZATION = Quantization(num_grey_levels=17)
KEY = jax.random.key(2)
SMALL = {"latent_dim": 4, "widths": (32,)}
MODELS = {
    "dense": make_vae((8, 8, 1), **SMALL),
    "dense-scalar": make_vae((8, 8, 1), **SMALL, variance="scalar"),
    "conv": make_vae((8, 8, 1), **SMALL, channels=(8, 8)),
    "conv-scalar": make_vae((8, 8, 1), **SMALL, channels=(8, 8), variance="scalar"),
}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@functools.cache
def digits(split):
    return jnp.asarray(load_source("digits", split).gather(np.arange(256 if split == "test" else 1500)))


@functools.partial(jax.jit, static_argnames=("model", "num_samples"))
def bits(model, params, levels, num_samples=None):
    """Bits per dimension of digits, dequantized once."""
    x = QUANTIZATION.dequantize(jax.random.key(9), levels)
    bound = elbo(KEY, model, params, x) if num_samples is None else importance_bound(KEY, model, params, x, num_samples)
    return QUANTIZATION.bits_per_dim(bound, 64)


def fresh(model):
    return jax.jit(lambda: model.init(jax.random.key(0), (1, 8, 8, 1)))()


def trained(model, num_steps):
    params, tx = fresh(model), optax.adam(3e-3)
    step = jax.jit(make_train_step(vae_loss(model), tx, prepare=QUANTIZATION.dequantize, ema_rate=0.9))
    state, data = state_of(params, tx, 0), np.asarray(digits("train"))
    for rows in np.random.RandomState(0).randint(0, len(data), (num_steps, 64)):
        state, _ = step(state, data[rows])
    return params, state.ema_params


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("dense", 3.3),
        pytest.param("dense-scalar", 3.9, marks=pytest.mark.long),
        pytest.param("conv", 3.4, marks=pytest.mark.long),
    ],
)
def test_training_improves_the_bound_of_held_out_digits(name, most):
    """To below the log2(17) = 4.09 bits of uniform gray levels, and importance weights find more still."""
    model = MODELS[name]
    start, end = trained(model, 300)
    test = digits("test")
    before, after = (np.asarray(bits(model, params, test)) for params in (start, end))
    weighted = np.asarray(bits(model, end, test, 50))
    gain, tightened = before - after, after - weighted
    assert gain.mean() > 0.9 and gain.mean() > 10.0 * gain.std() / np.sqrt(len(gain))
    assert tightened.mean() > 4.0 * tightened.std() / np.sqrt(len(tightened))
    assert after.mean() < most < np.log2(17)


@pytest.mark.sweep
@each_model
def test_it_is_a_latent_variable_model_whose_halves_keep_examples_apart(model):
    assert isinstance(model, LatentVariableModel)
    params = fresh(model)
    x = jax.random.normal(KEY, (3, 8, 8, 1))
    z = jax.random.normal(KEY, (3, *model.latent_shape))
    for half, values in ((model.encode, x), (model.decode, z)):
        half = jax.jit(half)
        whole, alone = half(params, values), half(params, values[:1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:1], b, rtol=1e-5, atol=1e-6), whole, alone)
        assert not np.allclose(whole.mean[0], whole.mean[1], atol=1e-6)


@pytest.mark.sweep
@each_model
def test_every_pixel_hears_of_every_latent_variable_and_the_encoder_of_every_pixel(model):
    params = fresh(model)
    of_z = jax.jacfwd(lambda z: model.decode(params, z).mean[0].ravel())
    of_x = jax.jacrev(lambda x: model.encode(params, x).mean[0])
    of_z, of_x = jax.jit(of_z)(jnp.full((1, 4), 0.3)), jax.jit(of_x)(jax.random.normal(KEY, (1, 8, 8, 1)))
    assert (np.abs(of_z) > 0.0).all() and (np.abs(of_x).reshape(4, -1).max(axis=0) > 0.0).all()


@pytest.mark.parametrize("name", ["dense", "dense-scalar"])
def test_the_standard_deviation_is_one_number_or_one_for_every_value(name):
    model = MODELS[name]
    params = fresh(model)
    log_std = np.asarray(model.decode(params, jax.random.normal(KEY, (5, 4))).log_std)
    assert (len(np.unique(log_std)) == 1) == (name == "dense-scalar")


@pytest.mark.sweep
@each_model
def test_no_parameters_bring_the_standard_deviation_below_its_floor(model):
    """And far above it the floor is not felt."""
    params = jax.tree.map(lambda p: -100.0 * jnp.ones_like(p), fresh(model))
    narrow = np.exp(np.asarray(model.decode(params, jnp.ones((2, 4))).log_std))
    np.testing.assert_allclose(narrow, 1e-3, rtol=1e-5)
    zero = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(model.decode(zero, jnp.ones((2, 4))).log_std, np.log(1.001), rtol=1e-3)


@pytest.mark.sweep
@pytest.mark.parametrize("event_shape", [(3,), (6, 4, 2)])
def test_it_takes_vectors_and_images_of_any_shape(event_shape):
    model = make_vae(event_shape, latent_dim=2, widths=(8, 4), channels=() if len(event_shape) == 1 else (4,))

    @jax.jit
    def sample_and_bound():
        params = model.init(KEY, (1, *event_shape))
        samples = sample_from_prior(KEY, model, params, 5, noise=True)
        return samples, elbo(KEY, model, params, samples)

    samples, bound = sample_and_bound()
    assert samples.shape == (5, *event_shape)
    assert np.isfinite(bound).all() and bound.shape == (5,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variance": "pixels"}, "Did you mean 'pixel'"),
        ({"activation": "swosh"}, "Did you mean 'swish'"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"widths": (0,)}, "expected sizes from 1"),
        ({"min_std": 0.0}, "positive min_std"),
        ({"channels": (4, 4, 4, 4)}, "cannot be halved 4 times"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make_vae((8, 8, 1), **fields)
