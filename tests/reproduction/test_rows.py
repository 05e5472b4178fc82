"""The table of published results holds together: names, files, configurations, tolerances, checkpoints."""

import fnmatch
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from score_sde.cli import load_config
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.modes.workdir import check_limit, data_info
from score_sde.reproduction.checks import _NUMBERED
from score_sde.reproduction.rows import QUANTITIES, ROWS, SNAPSHOT, select

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
# Published configurations without a row, by pattern, and why.
WITHOUT_ROW = {
    "*/cifar10_ncsnpp*": "the papers compare this architecture with others and print no number for it alone",
    "ve/cifar10_ddpm": "table 1 studies samplers with it; tables 2 and 3 have no row of it",
    "vp/ddpm/cifar10_unconditional": "an ablation of the released code, without a published number",
    "vp/ddpm/*": "images that are shown, without a number",
    "ve/*_ncsnpp_continuous": "images that are shown, without a number",
    "ve/celeba_ncsnpp": "an ablation of the released code, without a published number",
    "ve/ncsn/*": "runs of the released code anew; the published numbers are of another program's checkpoints",
    "ve/ncsnv2/*": "runs of the released code anew; the published numbers are of another program's checkpoints",
}
PUBLISHED = sorted(
    file.relative_to(CONFIGS).with_suffix("").as_posix()
    for file in CONFIGS.rglob("*.py")
    if "import published" in file.read_text()
)


def _config(row):
    return load_config(CONFIGS / f"{row.config}.py", [f"--config.{setting}" for setting in row.settings])


def test_every_published_configuration_has_a_row_or_a_reason_and_none_has_both():
    with_row = {row.config for row in ROWS.values()}
    reasons = {name: [p for p in WITHOUT_ROW if fnmatch.fnmatchcase(name, p)] for name in PUBLISHED}
    assert not [name for name in PUBLISHED if name not in with_row and not reasons[name]]
    used = {pattern for name in PUBLISHED if name not in with_row for pattern in reasons[name]}
    assert used == set(WITHOUT_ROW)  # no reason is idle
    assert with_row <= {*PUBLISHED, *(f"{sde}/digits_ddpmpp" for sde in ("vp", "subvp", "ve"))}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_says_what_it_measures_with_which_tolerance_and_why(name):
    row = ROWS[name]
    assert row.name == name
    assert row.what in QUANTITIES
    assert 0.0 < row.tolerance < 0.25 * row.expected
    assert row.reason
    assert row.source
    assert (CONFIGS / f"{row.config}.py").is_file()


@functools.cache
def _built(config, settings):
    """Experiments are built once for rows that differ in what is expected only."""
    config = load_config(CONFIGS / f"{config}.py", [f"--config.{setting}" for setting in settings])
    info = data_info(config) if config.data.name == "digits" or config.data.shape else None
    shape, levels = ((32, 32, 3), 256) if info is None else (info.shape, info.num_grey_levels)
    return Experiment.from_config(config, shape, levels)


@pytest.mark.sweep(10)
@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_builds_with_its_settings(name):
    row = ROWS[name]
    experiment = _built(row.config, row.settings)
    if row.what.startswith(("nll", "bound")):
        check_limit(experiment.settings)
        assert experiment.process is experiment.sde  # and not a chain, whose bound is another number
    if row.what.startswith(("fid", "is")):
        assert experiment.settings.evaluation.num_samples >= 1000
        wanted = {"fid": "frechet", "is": "inception_score"}[row.what.split("_")[0]]
        assert wanted in experiment.settings.evaluation.metrics
    if row.what == "fid_ode" or (row.name.startswith("score_flow/") and row.what == "fid"):
        assert experiment.sampler.name == "adaptive" and experiment.sampler.num_evals is None


FAMILIES = ("score_sde/ddpm_cifar10_vp/fid_ode", "score_sde/cifar10_ncsnpp_continuous_ve/fid_pc", "digits/ve/fid")


@pytest.mark.sweep
@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_of_a_row_traces(name):
    experiment = _built(ROWS[name].config, ROWS[name].settings)
    params = experiment.abstract_state().ema_params
    x = jax.ShapeDtypeStruct((2, *experiment.event_shape), jnp.float32)
    score = jax.eval_shape(lambda p, x, t: experiment.score_fn(p)(x, t), params, x, jax.ShapeDtypeStruct((2,), x.dtype))
    assert score.shape == x.shape


@pytest.mark.slow
def test_rows_of_one_run_agree_in_what_is_trained():
    """They share a directory, which refuses a configuration that is trained otherwise."""
    trained: dict[str, dict] = {}
    for row in ROWS.values():
        fields = {n: v for n, v in _config(row).to_dict().items() if n in ("sde", "model", "objective", "data", "seed")}
        assert trained.setdefault(row.run, fields) == fields, row.name
        assert len({other.config for other in ROWS.values() if other.run == row.run}) == 1


@pytest.mark.slow
def test_checkpoints_are_numbered_as_the_configuration_trains():
    for row in ROWS.values():
        if row.checkpoint is None:
            assert row.name.startswith("digits/")
            continue
        best = row.what in ("fid_pc", "is")
        assert (row.checkpoint.number is None) == best
        if not best:
            assert row.checkpoint.number == _config(row).training.num_steps // SNAPSHOT
            for ending in ("", ".pth"):
                assert int(_NUMBERED.fullmatch(f"checkpoint_{row.checkpoint.number}{ending}")[1]) > 0


def test_a_bound_lies_above_its_likelihood_in_every_published_pair():
    pairs = 0
    for name, row in ROWS.items():
        if row.what.startswith("bound"):
            pairs += 1
            assert row.expected >= ROWS[name.replace("/bound", "/nll")].expected
    assert pairs == 48


def test_rows_are_chosen_by_name_pattern_and_beginning():
    assert [row.name for row in select("digits/vp/nll")] == ["digits/vp/nll"]
    assert {row.name.split("/")[1] for row in select("digits/*/fid")} == {"vp", "subvp", "ve"}
    assert [row.what for row in select("digits/vp")] == ["nll", "fid"]
    with pytest.raises(UserError, match="Did you mean 'digits/vp/nll'") as refused:
        select("digit/vp/nl")
    assert len(str(refused.value)) < 300
    assert all(math.isfinite(row.expected) for row in ROWS.values())
