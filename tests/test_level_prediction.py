"""Logits of gray levels as a prediction: Bayes' rule with the noise that is known."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import load_config
from score_sde.distributed import replicated
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.likelihood import level_bound
from score_sde.notebook import fit
from score_sde.parameterization import LevelPrediction, make_score_fn
from score_sde.quantization import Quantization
from score_sde.sdes import VDM
from tests import own_parts
from tests.laws import SDES, float64

CONFIG = Path(__file__).parents[1] / "configs" / "vdm" / "digits.py"
QUANTIZATION = Quantization(num_grey_levels=5)
TINY = [f"--config.model.{field}" for field in ("features=8", "channel_multipliers=(1,)", "num_blocks=1")]
DIGITS = [*TINY, "--config.model.attention_resolutions=()", "--config.parameterization.output=levels"]


class Independent:
    """The exact network for pixels that are drawn apart: the logarithms of their probabilities, whatever it sees."""

    def __init__(self, logits):
        self.logits = logits

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        return jnp.broadcast_to(self.logits.astype(x.dtype), (*x.shape, self.logits.shape[-1]))


def score_of(sde, logits, quantization=QUANTIZATION):
    return make_score_fn(Independent(logits), LevelPrediction(quantization=quantization), sde, {})


def bounds(sde, score_fn, levels, quantization, num_times=32):
    of = jax.jit(lambda x: level_bound(jax.random.key(0), sde, score_fn, x, quantization, num_times=num_times))
    return of(levels)


@pytest.mark.parametrize("name", SDES)
def test_the_exact_logits_make_the_gradient_of_the_log_density(name):
    with float64():
        sde, rng = SDES[name], np.random.RandomState(0)
        logits = jnp.asarray(rng.randn(3, 5))  # three pixels, each with probabilities of its own
        middles = QUANTIZATION.midpoints(jnp.arange(5))[None, None]

        def log_density(x, t):
            m, s = (c[:, None, None] for c in sde.marginal(t))
            normal = jax.scipy.stats.norm.logpdf(x[..., None], m * middles, s)
            return jax.nn.logsumexp(jax.nn.log_softmax(logits)[None] + normal, axis=-1).sum()

        t = jnp.asarray(rng.uniform(0.05, 1.0, 64))
        x = sde.marginal(t).std[:, None] * jnp.asarray(rng.randn(64, 3))
        want = jax.grad(log_density)(x, t)
        np.testing.assert_allclose(score_of(sde, logits)(x, t), want, rtol=1e-6, atol=1e-6 * float(jnp.abs(want).max()))


def test_the_bound_of_exact_logits_is_the_entropy_and_of_no_logits_the_logarithm_of_the_number_of_levels():
    weights = np.array([0.6, 0.25, 0.1, 0.04, 0.01])
    for logits, p in ((np.log(weights), weights), (np.zeros(5), np.full(5, 0.2))):
        levels = jnp.asarray(np.random.RandomState(1).choice(5, (4000, 4), p=p))
        score_fn = score_of(VDM(), jnp.asarray(logits, jnp.float32))
        bound = bounds(VDM(), score_fn, levels, QUANTIZATION, num_times=128)
        excess = np.asarray(bound.value) + np.log(p)[np.asarray(levels)].sum(axis=1)
        error = excess.std() / np.sqrt(len(excess))
        assert error < 0.03 and -4 * error < excess.mean() < 4 * error + 4 * 2e-3  # two thousandths for the prior's gap


def test_where_the_noise_is_smaller_than_a_bin_the_prediction_is_exact_whatever_the_logits():
    quantization, rng = Quantization(num_grey_levels=256), np.random.RandomState(2)
    levels = jnp.asarray(rng.randint(0, 256, (4, 50)))
    x, noise = quantization.midpoints(levels), jnp.asarray(rng.randn(4, 50), jnp.float32)
    sde, t = VDM(log_snr_max=18.0), jnp.zeros(4)  # a sixtieth of a bin
    m, s = (c[:, None] for c in sde.marginal(t))
    score_fn = score_of(sde, jnp.asarray(5.0 * rng.randn(256), jnp.float32), quantization)
    np.testing.assert_allclose(-s * score_fn(m * x + s * noise, t), noise, atol=0.02)  # of float32, at 8,000 noises


def test_a_number_added_to_all_logits_changes_nothing_and_gradients_are_finite_for_any():
    sde, rng = VDM(), np.random.RandomState(3)
    logits, x, t = (
        jnp.asarray(rng.randn(5), jnp.float32),
        jnp.asarray(rng.randn(6, 2), jnp.float32),
        jnp.linspace(0, 1, 6),
    )
    np.testing.assert_allclose(score_of(sde, logits + 7.0)(x, t), score_of(sde, logits)(x, t), rtol=1e-3)
    for size in (0.0, 1.0, 1e5):
        grads = jax.grad(lambda scale: jnp.sum(score_of(sde, scale * logits)(x, t) ** 2))(size)
        assert bool(jnp.isfinite(grads))


def built(*flags, shape=(8, 8, 1), grey_levels=17):
    return Experiment.from_config(load_config(CONFIG, [*DIGITS, *flags]), shape, grey_levels)


@pytest.mark.sweep
@pytest.mark.parametrize("flags", [(), ("--config.model.patch_size=2",)], ids=["pixels", "patches"])
def test_an_untrained_network_knows_the_number_of_levels_and_its_first_and_last_layers_are_trained(flags):
    experiment = built(*flags)
    # On the mesh, as the step leaves it, so that the step is compiled once.
    state = jax.jit(experiment.init_state, out_shardings=replicated(experiment.mesh))()
    params = state.params
    levels = jnp.asarray(np.random.RandomState(4).randint(0, 17, (64, 8, 8, 1)))
    score_fn = experiment.score_fn(params)
    bound = jax.jit(lambda x: level_bound(jax.random.key(0), experiment.sde, score_fn, x, experiment.quantization))(
        levels
    )
    bits = np.asarray(bound.value) / (64 * np.log(2.0))
    assert abs(bits.mean() - np.log2(17)) < 4 * bits.std() / 8.0 + 0.01
    tx_step = jax.jit(experiment.train_step)
    for _ in range(3):
        state, _ = tx_step(state, levels[:8])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, state.params)
    # The branches of blocks start at zero too, and their first layers move later.
    ends = {name: part for name, part in moved.items() if name.startswith(("Conv", "Dense", "GroupNorm"))}
    assert len(ends) >= 4 and all(jax.tree.leaves(ends)), ends


REFUSED = {
    "continuous data": ((), None, r"is levels, and digits is continuous and has no gray levels; expected another"),
    "bins": (("--config.objective.levels=bins",), 17, "config.objective.levels is bins; expected midpoints"),
    "a network of one number": (
        ("--config.model.name=ncsnv2_64", "--config.model.features=32"),
        *(17, "config.model.name=ncsnv2_64 gives one number for every value; expected ncsnpp or ddpm"),
    ),
    "too many logits": (
        ("--config.training.batch_size=1000000", "--config.data.shape=(64,64,3)"),
        *(256, "config.parameterization.output is levels: the array of logits of a batch would have 3e"),
    ),
    "a chain": (
        ("--config.sde.name=vp", "--config.sde.schedule=linear"),
        *(17, "config.sde.schedule is linear; expected continuous"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_networks_and_processes_without_levels_are_refused(case):
    flags, grey_levels, message = REFUSED[case]
    with pytest.raises(UserError, match=re.compile(message)):
        built(*flags, grey_levels=grey_levels, shape=(64, 64, 3) if "shape" in str(flags) else (8, 8, 1))


def test_a_given_network_has_a_logit_for_every_level_or_is_refused_by_its_shape(key):
    """The logits of one's own network are trained, and their bound is measured, by an object and by name."""
    levels = np.random.default_rng(0).choice(5, p=[0.1, 0.2, 0.4, 0.2, 0.1], size=(400, 2))
    options = {"num_levels": 5, "steps": 2, "progress": False}
    changes = {"parameterization.output": "levels", "objective.levels": "midpoints", "parameterization.data_std": 0.5}
    model = fit(levels, network=own_parts.LinenLogits(levels=5), config=changes, **options)
    assert model.sample(key, 3, steps=4).shape == (3, 2)
    with pytest.raises(UserError, match=r"network returns shape \(2, 2\) .* expected \(2, 2, 5\), a logit for each"):
        fit(levels, network=own_parts.Linen(), config=changes, **options)
