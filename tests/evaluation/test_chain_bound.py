"""The bound of a network trained on a chain: that of known probabilities, and of a network end to end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import load_config
from score_sde.data import SourceInfo
from score_sde.data.base import ArraySource
from score_sde.errors import UserError
from score_sde.evaluation.chain_bound import MODELS, dataset_chain_bound
from score_sde.evaluation.partial import Partial
from score_sde.modes.workdir import build_experiment
from score_sde.report.measured import draw_likelihood

SHAPE = (4, 4, 1)
LEVELS = np.random.RandomState(0).randint(8, size=(70, *SHAPE)).astype(np.uint8)
SOURCE = ArraySource(SourceInfo("uniform", SHAPE, 8, None), LEVELS)


def build(*overrides):
    small = ["features=8", "channel_multipliers=(1,)", "num_blocks=1", "dropout=0.0", "attention_resolutions=()"]
    settings = [
        "data.shape=(4, 4, 1)",
        "likelihood.batch_size=40",
        "sampling.predictor=ancestral",
        "objective.t_min=0.1",
        *overrides,
    ]
    flags = [*(f"model.{setting}" for setting in small), *settings]
    experiment = build_experiment(load_config(None, [f"--config.{flag}" for flag in flags]))
    return dataclasses.replace(experiment, quantization=dataclasses.replace(experiment.quantization, num_grey_levels=8))


@dataclasses.dataclass(frozen=True)
class UniformLevels:
    """The exact noise prediction where all eight gray levels are equally likely and pixels are independent."""

    process: object

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        m, s = (c.reshape(-1, 1, 1, 1, 1) for c in self.process.marginal(condition / 999.0))
        centres = jnp.linspace(-1 + 1 / 8, 1 - 1 / 8, 8).reshape(1, 1, 1, 1, 8)
        logs = -0.5 * ((x[..., None] - m * centres) / s) ** 2
        mean = jnp.sum(jax.nn.softmax(logs) * centres, axis=-1)
        return (x - m[..., 0] * mean) / s[..., 0]


def uniform(*overrides):
    experiment = build("sde.schedule=linear", "parameterization.num_scales=2000", *overrides)
    return dataclasses.replace(experiment, network=UniformLevels(experiment.process))


@pytest.fixture(scope="module")
def measured():
    return dataset_chain_bound(uniform(), {}, SOURCE)


@pytest.mark.slow
def test_equally_likely_levels_cost_their_logarithm(measured):
    """Three bits per dimension of 8 levels, and little more with the best variances; the last batch is padded."""
    assert len(measured.bits_per_dim) == 70
    error = measured.bits_per_dim.std() / np.sqrt(70)
    assert -4 * error < measured.bits_per_dim.mean() - 3.0 < 0.1 + 4 * error
    assert min(measured.alternatives.values()) == measured.alternatives[measured.model]
    assert set(measured.alternatives) == set(MODELS)
    # Levels that are known near the data are what small variances are for.
    assert measured.model.variance == "fixed_small"


@pytest.mark.slow
def test_the_terms_add_up_along_the_reversal(measured):
    total = measured.prior + measured.divergence + measured.decoder
    np.testing.assert_allclose(total, measured.bits_per_dim, rtol=1e-5)
    assert len(measured.times) == len(measured.rate) == len(measured.distortion) == 2000 == len(measured.level_bits) + 1
    assert measured.times[0] == 1.0 and (np.diff(measured.times) < 0.0).all()
    np.testing.assert_allclose(np.diff(measured.rate), measured.level_bits, atol=1e-6)
    np.testing.assert_allclose(measured.rate[0], measured.prior.mean(), atol=1e-6)
    np.testing.assert_allclose(measured.rate[-1], (measured.prior + measured.divergence).mean(), rtol=1e-5)
    # At the prior the best guess is the middle of 0 to 255, in the end the level is known.
    centres = 255.0 * (np.arange(8) + 0.5) / 8
    assert abs(measured.distortion[0] / np.sqrt(np.mean((centres[LEVELS] - 127.5) ** 2)) - 1.0) < 0.02
    assert measured.distortion[-1] < 0.5


@pytest.mark.slow
def test_drawn_steps_agree_with_all_of_them(measured):
    experiment = uniform("likelihood.chain_terms=100")
    drawn = dataset_chain_bound(experiment, {}, SOURCE)
    for model in MODELS:
        gap, error = drawn.alternatives[model] - measured.alternatives[model], np.sqrt(np.mean(drawn.std_error**2) / 70)
        assert abs(gap) < 5 * (error + measured.bits_per_dim.std() / np.sqrt(70))
    assert np.isnan(measured.std_error).all() and (drawn.std_error > 0.0).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "schedule"), [("vp", "cosine"), ("ve", "geometric")])
def test_a_network_is_measured_from_end_to_end(tmp_path, name, schedule):
    levels = ["parameterization.num_scales=12", "parameterization.condition_on=log_noise"]
    experiment = build(f"sde.name={name}", f"sde.schedule={schedule}", *levels, "likelihood.num_examples=50")
    params = experiment.network.init(jax.random.key(0), (1, *SHAPE))
    done = []
    result = dataset_chain_bound(experiment, params, SOURCE, kept=Partial(progress=done.append))
    assert done == [40, 10] and len(result.bits_per_dim) == 50
    assert np.isfinite(result.bits_per_dim).all() and (result.bits_per_dim > 0.0).all()
    columns = {"rate": result.rate, "distortion": result.distortion, "level_bits": result.level_bits}
    draw_likelihood(tmp_path, {}, {f"chain_{name}": column for name, column in columns.items()})
    assert [path.name for path in tmp_path.iterdir()] == ["rate_distortion.png"]
    assert (tmp_path / "rate_distortion.png").stat().st_size > 10_000


def test_a_network_in_continuous_time_is_refused():
    with pytest.raises(UserError, match="expected a network trained on one"):
        dataset_chain_bound(build(), {}, SOURCE)


def test_an_odd_number_of_terms_is_refused():
    with pytest.raises(UserError, match="chain_terms is 3; expected an even integer"):
        dataset_chain_bound(uniform("likelihood.chain_terms=3"), {}, SOURCE)
