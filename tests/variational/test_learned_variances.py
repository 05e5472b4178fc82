"""Training on the bound of a chain: a random level stands for the sum, and the best variances are found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde import chains
from score_sde.likelihood import Quantization
from score_sde.objectives import UniformTimes
from score_sde.parameterization import NoisePrediction
from score_sde.state import state_of
from score_sde.training.step import make_train_step
from score_sde.variational import learned_variance_bound, make_predict_fn, vlb_loss
from tests.variational.test_latent_variable import KEY, MIXTURE, STEPS, Table, best_fractions

SHORT = chains.DDPM(betas=jnp.array([0.1, 0.3, 0.5, 0.7]))


@pytest.mark.sweep
@pytest.mark.parametrize("levels", [None, UniformTimes(t0=0.0)], ids=["spread", "independent"])
@pytest.mark.parametrize("num_levels", [None, 17], ids=["continuous", "gray"])
def test_the_loss_of_a_random_level_has_the_mean_of_the_sum_over_all(num_levels, levels):
    n, network, quantization = 20_000, Table(SHORT), Quantization(num_grey_levels=num_levels)
    params = {"weight": jnp.array([0.4, 0.7]), "raw": jax.random.normal(KEY, (4, 2))}
    x, options = jnp.tile(jnp.array([[0.4, -0.8]]), (n, 1)), {} if levels is None else {"levels": levels}
    loss = vlb_loss(SHORT, network, NoisePrediction(), quantization=quantization, **options)
    drawn = np.asarray(jax.jit(lambda x: loss(params, KEY, x, train=True))(x), np.float64)
    predict = make_predict_fn(network, NoisePrediction(), SHORT, params)
    whole = jax.jit(lambda x: learned_variance_bound(KEY, SHORT, predict, x, quantization=quantization).value)(x)
    whole = np.asarray(whole, np.float64) / 2
    error = np.hypot(drawn.std(), whole.std()) / np.sqrt(n)
    assert abs(drawn.mean() - whole.mean()) < 4.0 * error < 0.15


@pytest.mark.slow
def test_training_finds_the_best_variances_and_the_exact_score():
    """Of N(0, I), whose exact noise prediction is x times the std of the level, with a weight that is that std."""

    class Scaled(Table):
        def apply(self, params, x, condition, *, label=None, key=None):
            output = super().apply(params, x, condition)
            scale = self.chain.marginal(condition / 999.0).std[:, None]
            return output * jnp.concatenate([scale * jnp.ones((1, 2)), jnp.ones_like(x)], axis=-1)

    network, tx = Scaled(SHORT), optax.adam(optax.cosine_decay_schedule(0.05, 1500))
    loss = vlb_loss(SHORT, network, NoisePrediction())
    step = jax.jit(make_train_step(loss, tx, prepare=lambda key, x: x, ema_rate=0.99))
    state = state_of(network.init(KEY, (1, 2)), tx, 0)
    for batch in np.random.RandomState(0).randn(1500, 256, 2).astype(np.float32):
        state, _ = step(state, batch)
    fractions = 0.5 * (np.asarray(state.ema_params["raw"]) + 1.0)
    np.testing.assert_allclose(state.ema_params["weight"], 1.0, atol=0.03)
    np.testing.assert_allclose(fractions, best_fractions(SHORT, np.ones(2)), atol=0.06)


def test_of_the_hybrid_loss_the_mean_learns_by_squares_and_the_variances_by_the_bound():
    network, x = Table(SHORT), jnp.asarray(MIXTURE.sample(40), jnp.float32)
    params = network.init(KEY, (1, 2))

    def gradient(**options):
        loss = vlb_loss(SHORT, network, NoisePrediction(), **options)
        return jax.jit(jax.grad(lambda p: loss(p, KEY, x, train=True).mean()))(params)

    squares, hybrid, bound = gradient(hybrid=0.0), gradient(hybrid=0.25), gradient()
    np.testing.assert_allclose(hybrid["weight"], squares["weight"], rtol=1e-5)
    np.testing.assert_allclose(hybrid["raw"], 0.25 * bound["raw"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(squares["raw"], 0.0)
    assert not np.allclose(squares["weight"], bound["weight"], rtol=0.1)


@pytest.mark.sweep
@pytest.mark.parametrize("num_levels", [None, 2, 256])
def test_gradients_stay_finite_however_wrong_the_prediction(num_levels):
    network, chain = Table(STEPS), chains.DDPM(betas=chains.linear_betas(1000))
    loss = vlb_loss(chain, network, NoisePrediction(), quantization=Quantization(num_grey_levels=num_levels))
    x = jnp.tile(jnp.array([[0.991, -0.991]]), (2000, 1))
    for scale in (1.0, 30.0):
        params = {"weight": jnp.full(2, scale), "raw": jnp.full((10, 2), 1.0)}
        value, grads = jax.jit(jax.value_and_grad(lambda p: loss(p, KEY, x, train=True).mean()))(params)
        assert all(np.isfinite(v).all() for v in jax.tree.leaves((value, grads)))
