"""A batch in parts has the gradient of the whole: random numbers are drawn once, and a part takes its share of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde import likelihood, objectives
from score_sde.chains import DDPM
from score_sde.likelihood import Quantization, dequantization_loss
from score_sde.objectives import (
    ImportanceTimes,
    LevelTimes,
    LowDiscrepancyTimes,
    UniformTimes,
    consistency_loss,
    criterion_loss,
    distillation_loss,
    likelihood_weighting,
    mean_flow_loss,
    score_matching_loss,
    static_score_matching_loss,
    vae_loss,
    variance_weighting,
    vlb_loss,
)
from score_sde.parameterization import NoisePrediction, VelocityPrediction
from score_sde.sdes import VP, RectifiedFlow
from score_sde.state import state_of
from score_sde.training.step import make_train_step
from tests.objectives.test_family_criteria import MEMBERS, Affine, Tilted
from tests.variational.test_autoencoder import MODEL
from tests.variational.test_latent_variable import Table

SDE, CHAIN, NOISE = VP(), DDPM(betas=jnp.array([0.1, 0.3, 0.5, 0.7])), NoisePrediction()


class Shifted:
    """Logistic noise in the bins, with a location and a scale that are learned."""

    def init(self, key, shape):
        return {"location": jnp.full((), 0.3), "log_scale": jnp.full((), -0.2)}

    def sample(self, params, keys, levels, *, dropout_key=None):
        noise = jax.vmap(lambda key: jax.random.logistic(key, levels.shape[1:]))(keys)
        logits = params["location"] + jnp.exp(params["log_scale"]) * noise
        density = jax.scipy.stats.logistic.logpdf(noise) - jax.scipy.stats.logistic.logpdf(logits)
        return jax.nn.sigmoid(logits), jnp.sum(density - params["log_scale"], axis=1)


class Spanned(Tilted):
    """A network of two times."""

    def apply(self, params, x, condition, *, label=None, key=None, span=None):
        return super().apply(params, x, condition + span, key=key)


def score_matching(times, weighting=variance_weighting):
    return score_matching_loss(SDE, Tilted(), NOISE, times=times, weighting=weighting), Tilted()


def criterion(name):
    times = LowDiscrepancyTimes(t0=0.05)
    return criterion_loss(SDE, Tilted(), NOISE, MEMBERS[name][0], times=times, weighting=variance_weighting), Tilted()


def consistency():
    return consistency_loss(SDE, Tilted(), NOISE, times=LowDiscrepancyTimes(t0=0.05), gap=0.1), Tilted()


def mean_flow():
    path = RectifiedFlow()
    return mean_flow_loss(path, Spanned(), VelocityPrediction(), times=LowDiscrepancyTimes(t0=0.05)), Spanned()


def distillation():
    times = jnp.linspace(1.0, 0.05, 5)
    return distillation_loss(SDE, Tilted(), NOISE, times=times, weighting=variance_weighting), Tilted()


def dequantization(offset):
    def score(x, t):
        return -x / (1.0 + 0.5 * jnp.sin(t))[:, None]

    loss = dequantization_loss(Quantization(num_grey_levels=4), Shifted(), SDE, score, t_min=1e-3, offset=offset)
    return loss, Shifted()


LOSSES = {
    "score_matching_loss uniform": lambda: score_matching(UniformTimes(t0=0.05)),
    "score_matching_loss low discrepancy": lambda: score_matching(LowDiscrepancyTimes(t0=0.05)),
    "score_matching_loss levels": lambda: score_matching(LevelTimes(t0=0.05)),
    "score_matching_loss importance": lambda: score_matching(ImportanceTimes(sde=SDE, t0=0.05), likelihood_weighting),
    **{f"criterion_loss {name}": lambda name=name: criterion(name) for name in ("implicit", "sliced", "sliced_vr")},
    **{
        f"static_score_matching_loss {name}": lambda member=member: (
            static_score_matching_loss(Affine(), member[0], condition=2.0),
            Affine(),
        )
        for name, member in MEMBERS.items()
    },
    "consistency_loss": consistency,
    "mean_flow_loss": mean_flow,
    "distillation_loss": distillation,
    "vae_loss": lambda: (vae_loss(MODEL), MODEL),
    "vae_loss weights": lambda: (vae_loss(MODEL, num_samples=3), MODEL),
    "vlb_loss": lambda: (vlb_loss(CHAIN, Table(CHAIN), NOISE), Table(CHAIN)),
    "vlb_loss hybrid": lambda: (vlb_loss(CHAIN, Table(CHAIN), NOISE, hybrid=0.25), Table(CHAIN)),
    "dequantization_loss": lambda: dequantization(offset=True),
    "dequantization_loss without offset": lambda: dequantization(offset=False),
}


def test_the_table_has_all_losses():
    public = {name for name in (*objectives.__all__, *likelihood.__all__) if name.endswith("_loss")}
    assert {name.split()[0] for name in LOSSES} == public


@pytest.mark.sweep
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_the_parts_is_that_of_the_whole(name, key):
    loss, model = LOSSES[name]()
    dim = 4 if model is MODEL else 2
    batch, tx = jax.random.normal(jax.random.key(1), (12, dim)), optax.sgd(1.0)
    if name.startswith("dequantization"):
        batch = jax.random.randint(jax.random.key(1), (12, dim), 0, 4)
    params = model.init(key, (1, dim))

    def gradient(accumulate):
        options = {"prepare": lambda key, batch: batch, "ema_rate": 0.9, "accumulate": accumulate}
        state, metrics = jax.jit(make_train_step(loss, tx, **options))(state_of(params, tx, 0), batch)
        return metrics["loss"], jax.tree.map(jnp.subtract, params, state.params)

    whole, parts = gradient(1), gradient(3)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole[1]))
    assert scale > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), parts, whole)
