"""What the user's own numbers mean is said before training: where they are far off, and only there."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cautions import (
    DataScale,
    cautions,
    data_cautions,
    likelihood_cautions,
    network_cautions,
    restoration_cautions,
    run_cautions,
    scale_of,
)
from score_sde.cli import load_config
from score_sde.config import from_file, with_overrides
from score_sde.data import ArraySource, SourceInfo, load_source, source_info
from score_sde.diffusions import DIFFUSIONS, make_sde
from score_sde.modes import MODES
from score_sde.modes.dequantizer import load_noise
from score_sde.modes.workdir import build_experiment

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "configs").rglob("*.py"), *(ROOT / "experiments").rglob("configs/*.py")])
AT_HAND = ("digits", "toy")  # data that every machine has


def configured(file="vp/toy_mlp", **changes):
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    return with_overrides(from_file(ROOT / "configs" / f"{file}.py"), overrides)


def table(mean, std, count=2000, dimensions=3):
    """A data set of vectors."""
    values = np.random.RandomState(0).randn(count, dimensions) * std + mean
    return ArraySource(SourceInfo("table", (dimensions,), None, None), values.astype(np.float32))


@pytest.mark.sweep(8)
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_nothing_is_said_of_a_configuration_that_is_shipped(file):
    config = load_config(file, [])
    shape = tuple(config.data.shape) or source_info(config.data.name).shape
    assert not [*run_cautions(config), *network_cautions(config, shape)]
    assert config.dequantizer.name == "none" or not [*run_cautions(config, "dequantizer")]
    if config.data.name.partition(":")[0] in AT_HAND:
        assert not [*cautions(config, load_source(config.data.name, "train"))]


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_a_dimension_that_varies_less_than_the_smallest_noise_is_told_of_under_every_process(name):
    config = configured(**{"sde.name": name, "objective.t_min": 1e-3})
    smallest = float(make_sde(config).marginal(jnp.float32(1e-3)).std)
    for share, told in ((0.1, True), (10.0, False)):
        scale = DataScale(np.zeros(3), np.array([1.0, 1.0, share * smallest]))
        found = [said for said in data_cautions(config, scale, continuous=True) if "the smallest noise is" in said]
        assert bool(found) == told, found


def test_the_share_of_the_initialization_in_an_average_is_the_weight_that_the_recursion_leaves_to_it():
    """An average that starts at 1 and then sees zeros is what is left of the 1."""
    left = 1.0
    for _ in range(400):
        left = 0.9999 * left
    (said,) = run_cautions(configured(**{"optim.ema_rate": 0.9999, "optim.warmup": 10, **SHORT}))
    assert f"{left:.0%}" in said and "10,000 steps" in said and "has 400" in said


SHORT = {"training.num_steps": 400, "training.eval_every": 400, "training.checkpoint_every": 400}
SHORT |= {"training.sample_every": 0, "optim.schedule": "constant", "optim.ema_warmup": False}


@pytest.mark.parametrize("steps", [40, 400, 3000, 70_000])
def test_a_rate_that_is_advised_leaves_nothing_to_be_said(steps):
    lengths = dict.fromkeys((f"training.{name}" for name in ("num_steps", "eval_every", "checkpoint_every")), steps)
    lengths |= {"training.log_every": 10, "training.steps_per_dispatch": 1}
    (said,) = run_cautions(configured(**SHORT | lengths | {"optim.ema_rate": 0.99999, "optim.warmup": 1}))
    advised = said.partition("Set config.optim.ema_rate=")[2].partition(",")[0]
    assert not [*run_cautions(configured(**SHORT | lengths | {"optim.ema_rate": advised, "optim.warmup": 1}))]


SAID = {
    "a warm-up that does not end": ({"optim.warmup": 5000}, ["optim.warmup is 5,000", "8% of"]),
    "intervals beyond the run": (
        {"training.checkpoint_every": 1000, "training.eval_every": 500},
        ["eval_every=500, checkpoint_every=1,000", "once, after the last step"],
    ),
    "averages that are not kept": ({"optim.ema_widths": "0.05,0.10"}, ["never kept", "ema_snapshot_every=10"]),
    "too few snapshots": (
        {"optim.ema_widths": "0.02,0.28", "optim.ema_snapshot_every": 400},
        ["1 snapshot gives", "width 0.075", "with an error of"],
    ),
}


def test_no_warm_up_is_advised_where_a_tenth_of_the_run_is_no_step():
    said = run_cautions(configured(**SHORT | {"training.num_steps": 4, "optim.warmup": 9}))
    assert any("optim.warmup is 9" in sentence and sentence.endswith("set it to 0.") for sentence in said)


@pytest.mark.parametrize("case", SAID)
def test_a_length_of_time_that_does_not_fit_the_run_is_named(case):
    changes, parts = SAID[case]
    fitting = {"optim.warmup": 10, "optim.ema_rate": 0.9, "training.log_every": 10, "training.steps_per_dispatch": 1}
    assert not [*run_cautions(configured(**SHORT | fitting))]
    (said,) = run_cautions(configured(**SHORT | fitting | changes))
    assert all(part in said for part in parts), said


def test_the_lengths_of_a_dequantizer_are_held_against_its_own_run():
    changes = {"dequantizer.num_steps": 50, "dequantizer.ema_rate": 0.9999, "optim.ema_warmup": False}
    config = configured("vp/digits_scoreflow", **changes | {"optim.ema_rate": 0.99})
    assert [said.split(" is ")[0] for said in run_cautions(config, "dequantizer")][:2] == [
        "config.dequantizer.ema_rate",
        "config.dequantizer.warmup",
    ]
    assert not [*run_cautions(config)]


def test_the_scale_of_data_is_that_of_the_table_they_are_drawn_from():
    scale = scale_of(table(5000.0, 1000.0), centered=True)
    np.testing.assert_allclose(scale.mean, 5000.0, atol=5 * 1000.0 / np.sqrt(2000))
    np.testing.assert_allclose(scale.std, 1000.0, rtol=0.1)


@pytest.mark.parametrize(("sde", "assumed"), [("vp", "assumes values of about 1"), ("ve", "does not cover them")])
@pytest.mark.parametrize(("mean", "std"), [(5000.0, 1000.0), (0.0, 300.0), (200.0, 1.0)])
def test_data_far_from_the_scale_that_is_assumed_are_told(sde, assumed, mean, std):
    """The noise must cover the data; where it does, and once they are standardized, nothing is said."""
    config, source = configured(**{"sde.name": sde}), table(mean, std)
    (said,) = data_cautions(config, scale_of(source, centered=True), continuous=True)
    assert assumed in said
    assert not [*data_cautions(config, scale_of(table(0.0, 1.0), centered=True), continuous=True)]
    if sde == "ve":
        wide = configured(**{"sde.name": sde, "sde.sigma_max": 1e5})
        assert not [*data_cautions(wide, scale_of(source, centered=True), continuous=True)]


def test_other_scales_that_cannot_be_learned_are_told():
    scale = DataScale(np.zeros(3), np.array([1.0, 1.0, 1e-6]))
    assert "varies by 1e-06 only" in next(data_cautions(configured(), scale, continuous=True))
    for std, words in ((np.array([1.0, 1.0, 0.0]), "is constant"), (np.zeros(3), "are all alike")):
        (said,) = data_cautions(configured(), DataScale(np.zeros(3), std), continuous=True)
        assert words in said and "tandardize" not in said  # which would divide by 0
    scale = DataScale(np.zeros(3), np.array([3.0, 3.0, 0.02]))
    assert "one by one" in next(data_cautions(configured(), scale, continuous=True))
    scale = DataScale(np.zeros(2), np.array([np.inf, 1.0]))
    assert "not finite" in next(data_cautions(configured(), scale, continuous=True))
    edm = configured(**{"parameterization.output": "edm", "parameterization.data_std": 0.05})
    assert "data_std is 0.05" in next(data_cautions(edm, DataScale(np.zeros(2), np.ones(2)), continuous=True))


def test_attention_that_the_network_does_not_have_is_told():
    config = configured("vp/digits_ddpmpp", **{"model.channel_multipliers": "1,"})
    (said,) = network_cautions(config, (8, 8, 1))
    assert "has 4, and the feature maps have heights 8" in said


@pytest.mark.parametrize("name", ["edm2", "ncsnpp"])
def test_noise_that_the_network_cannot_tell_is_told_and_the_advice_helps(name):
    given = {"model.name": name, "model.embedding": "fourier"}
    (said,) = network_cautions(configured("vp/digits_ddpmpp", **given), (8, 8, 1))
    assert "condition_on=time takes the waves of the noise through about 15,984 periods" in said
    advised = re.findall(r"config\.([\w.]+)=([\w.]+)\b(?! takes)", said)
    assert [field for field, _ in advised] == ["parameterization.condition_on", "model.fourier_scale"]
    for field, value in advised:
        assert not [*network_cautions(configured("vp/digits_ddpmpp", **given, **{field: value}), (8, 8, 1))]
    edm = {"parameterization.output": "edm"}  # which is told the logarithm whatever the field says
    assert not [*network_cautions(configured("vp/digits_ddpmpp", **given, **edm), (8, 8, 1))]


def test_noise_of_a_likelihood_that_the_network_was_not_trained_with_is_told():
    asked = {"likelihood.dequantization": "truncated_normal"}
    (said,) = likelihood_cautions(configured(**asked), continuous=False)
    assert "config.objective.levels=bins trained the network" in said and "objective.levels=midpoints" in said
    assert not list(likelihood_cautions(configured(**asked, **{"objective.levels": "midpoints"}), continuous=False))
    (said,) = likelihood_cautions(configured(**asked), continuous=True)
    assert said.startswith("config.likelihood.dequantization=truncated_normal has no effect: toy:gaussians has no gray")
    assert not list(likelihood_cautions(configured(), continuous=True))


def test_a_restoration_by_derivatives_of_waves_that_noise_hides_is_told_of_them():
    waves = {"model.name": "ncsnpp", "model.input_frequencies": (6, 7)}
    (said,) = restoration_cautions(configured(**waves), 3)
    assert "large where noise hides them" in said and "config.conditioning.method=daps" in said
    assert not list(restoration_cautions(configured(**waves), 0))  # DAPS takes none
    assert not list(restoration_cautions(configured(**waves, **{"model.damped_waves": True}), 3))
    assert not list(restoration_cautions(configured(**{"model.name": "ncsnpp"}), 3))


def test_a_likelihood_of_continuous_data_takes_no_noise_and_says_so(tmp_path, caplog):
    experiment = build_experiment(configured(**{"likelihood.dequantization": "truncated_normal"}), "likelihood")
    assert not load_noise(experiment, tmp_path).decodes
    assert "config.likelihood.dequantization=truncated_normal has no effect" in caplog.text


def test_training_says_it_before_it_starts(tmp_path, caplog):
    rows = table(5000.0, 1000.0, 200).gather(np.arange(200))
    np.savez(tmp_path / "table.npz", train=rows, test=rows)
    changes = {"data.name": f"npz:{tmp_path / 'table.npz'}", "model.features": 8, "model.num_blocks": 1}
    config = configured(
        **SHORT
        | changes
        | {
            "training.num_steps": 2,
            "training.log_every": 1,
            "optim.warmup": 1,
            "training.eval_every": 2,
            "training.checkpoint_every": 2,
            "training.steps_per_dispatch": 1,
            "training.batch_size": 8,
            "likelihood.batch_size": 8,
        }
    )
    caplog.set_level("INFO")
    MODES["train"](config, tmp_path / "run", "python -m score_sde")
    assert caplog.text.index("assumes values of about 1") < caplog.text.index("Trained to step 2")
