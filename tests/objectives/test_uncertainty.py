"""Learned uncertainty: its best value is the logarithm of the weighted error, which is 0 where EDM knows it to be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.config import default_config
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.labels import Labeled
from score_sde.objectives import (
    EDMWeighting,
    LogNormalTimes,
    Uncertain,
    class_conditional,
    score_matching_loss,
    variance_weighting,
)
from score_sde.parameterization import EDMPrediction
from score_sde.sdes import EDM

STD = 0.5
PATH, WEIGHTING = EDM(sigma_max=80.0), EDMWeighting(data_std=STD)


class Silent:
    """A network that says 0, which under EDM's preconditioning is the best denoiser of N(0, STD^2)."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        assert params == {}
        return 0.0 * x


NETWORK = Uncertain(Silent())


def make(**options):
    given = {"times": LogNormalTimes(sde=PATH, mean=-0.4, std=1.0), "weighting": WEIGHTING, **options}
    parts = (PATH, NETWORK, EDMPrediction(data_std=STD))
    return score_matching_loss(*parts, uncertainty=NETWORK.uncertainty, **given)


def weights(scale):
    params = NETWORK.init(jax.random.key(0), (1, 2))
    return {name: scale * jnp.cos(jnp.arange(value.size)) for name, value in params.items()}


@pytest.mark.parametrize("reduce_mean", [True, False])
def test_of_gaussian_data_the_loss_is_that_of_its_uncertainty_and_least_where_that_is_zero(reduce_mean, key):
    """``E [e^-u + u] >= 1`` per dimension: with the best denoiser the weighted error is 1 at every level."""
    unit = 1.0 if reduce_mean else 3.0  # a mean, or half a sum over six dimensions
    data, loss = STD * jax.random.normal(jax.random.key(1), (30_000, 6)), make(reduce_mean=reduce_mean)
    for scale in (0.0, 1.0, -1.0):
        params = weights(scale)
        (t, _, _, _), _ = loss.draw(key, data)
        u = NETWORK.uncertainty(params, -0.5 * PATH.log_snr(t))
        assert bool(jnp.any(u)) is (scale != 0.0)
        expected = float(jnp.mean(jnp.exp(-u) + u))
        assert expected >= 1.0
        np.testing.assert_allclose(loss(params, key, data, train=False).mean(), unit * expected, rtol=0.02)
    slope = jax.grad(lambda p: loss(p, key, data, train=False).mean())(weights(0.0))["uncertainty"]
    assert float(jnp.linalg.norm(slope)) < 0.02 * unit


def test_it_learns_the_logarithm_of_the_error_at_every_level():
    """Of data of another width, on which the denoiser of N(0, STD^2) has an error in closed form."""
    width, loss, tx = 1.5, make(), optax.adam(0.03)
    data = width * jax.random.normal(jax.random.key(1), (2000, 8))

    def step(carry, key):
        params, state = carry
        grads = jax.grad(lambda p: loss(p, key, data, train=True).mean())(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    params = NETWORK.init(jax.random.key(0), (1, 8))
    keys = jax.random.split(jax.random.key(2), 300)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((params, tx.init(params)))
    log_noise = np.linspace(-1.9, 1.1, 7)  # within 1.5 deviations of the mean
    sigma = np.exp(log_noise)
    skip = STD**2 / (sigma**2 + STD**2)
    error = ((1 - skip) * width) ** 2 + (skip * sigma) ** 2  # E (D - x)^2 per dimension
    best = np.log(error * (sigma**2 + STD**2) / (sigma * STD) ** 2)
    assert np.ptp(best) > 1.0
    np.testing.assert_allclose(NETWORK.uncertainty(params, jnp.asarray(log_noise, jnp.float32)), best, atol=0.1)


def test_the_weighting_does_not_change_what_is_learned_beside_the_best_uncertainty(key):
    """Errors are divided by their own size at each level: another weight adds its logarithm to the uncertainty."""
    data = STD * jax.random.normal(jax.random.key(1), (64, 2))

    def loss_of(weighting, extra):
        parts, times = (PATH, NETWORK, EDMPrediction(data_std=STD)), LogNormalTimes(sde=PATH, mean=-0.4, std=1.0)
        options = {"times": times, "weighting": weighting, "uncertainty": lambda params, log_noise: extra(log_noise)}
        return score_matching_loss(*parts, **options)(weights(0.0), key, data, train=False)

    def log_ratio(log_noise):
        return -jnp.log1p((jnp.exp(log_noise) / STD) ** 2)

    (t, _, _, _), _ = make().draw(key, data)
    plain, other = loss_of(WEIGHTING, jnp.zeros_like), loss_of(variance_weighting, log_ratio)
    np.testing.assert_allclose(other - log_ratio(-0.5 * PATH.log_snr(t)), plain, rtol=1e-4)


def test_classes_and_learned_uncertainties_go_together(key):
    data = STD * jax.random.normal(jax.random.key(1), (16, 2))
    batch = Labeled(data, jnp.zeros(16, jnp.int32))

    class Labelled(Silent):
        def apply(self, params, x, condition, *, label=None, key=None):
            assert label is not None
            return super().apply(params, x, condition)

    parts, options = (PATH, Uncertain(Labelled()), EDMPrediction(data_std=STD)), {"weighting": WEIGHTING}
    given = {"times": LogNormalTimes(sde=PATH, mean=-0.4, std=1.0), "uncertainty": NETWORK.uncertainty}
    loss, params = class_conditional(score_matching_loss(*parts, **options, **given), 0.5), weights(1.0)
    found = loss(params, key, batch, train=False)
    np.testing.assert_allclose(found, make()(params, key, data, train=False), rtol=1e-5)


def test_a_run_has_one_only_if_it_is_asked_for_and_the_objective_reads_it():
    config = default_config()
    config.update_from_flattened_dict({"model.name": "mlp", "model.features": 4, "model.num_blocks": 1})

    def built(**changes):
        own = config.copy_and_resolve_references()
        own.objective.update(changes)
        return Experiment.from_config(own, (2,), None, purposes={"train"})

    plain, learned = built(), built(uncertainty=True)
    shapes = [jax.eval_shape(run.init_state).params for run in (plain, learned)]
    assert set(shapes[1]) - set(shapes[0]) == {"uncertainty"}
    params, batch = learned.init_state().params, jnp.ones((4, 2))
    own = {name: value for name, value in params.items() if name != "uncertainty"}
    losses = [run.loss(p, jax.random.key(0), batch, train=True) for run, p in ((plain, own), (learned, params))]
    np.testing.assert_array_equal(*losses)  # it begins as the loss without
    implicit = built(uncertainty=True, kind="implicit")
    assert "uncertainty" not in jax.eval_shape(implicit.init_state).params


def test_parameters_that_take_no_entry_are_refused():
    class Bare(Silent):
        def init(self, key, shape):
            return jnp.zeros(3)

    with pytest.raises(UserError, match=r"an uncertainty is one more entry.*uncertainty=False"):
        Uncertain(Bare()).init(jax.random.key(0), (1, 2))
