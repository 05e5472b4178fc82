"""The table of samplers: what of the runs comes together in a line, and what is refused."""

import json

import pytest

from score_sde.cli import load_config
from score_sde.errors import UserError
from score_sde.modes.workdir import build_experiment
from tests.scripts import EXPERIMENTS, load_script

CONFIGS = EXPERIMENTS.parent / "configs"


@pytest.fixture(scope="module")
def samplers():
    return load_script(EXPERIMENTS / "metrics" / "samplers.py")


@pytest.fixture
def recorded(tmp_path):
    """Makes what a run leaves of its configuration."""

    def make(name, process, seed=42, examples=0):
        changed = [f"--config.seed={seed}", f"--config.likelihood.num_examples={examples}"]
        config = load_config(CONFIGS / process / "digits_ddpmpp.py", changed)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config.to_dict()))
        return tmp_path / name

    return make


def entry(process, sampler, frechet, **fields):
    share = {"value": 0.5, "std_error": 0.1}
    distance = {"value": frechet + 2.0, "std_error": 0.5, "interval": [frechet - 1.0, frechet + 1.0]}
    distance["details"] = {"corrected": frechet}
    metrics = {"frechet": distance, "precision": share, "recall": share}
    costs = {"num_evals": 17, "sampling_seconds": 3.0}
    return {"process": process, "sampler": sampler, "metrics": metrics, **costs, **fields}


def test_seeds_come_together_in_a_line_with_the_error_over_them(samplers):
    lines = samplers.rows(
        [
            entry("vp", "fast", 4.0, bits_per_dim=1.9, bits_per_dim_std_error=0.01),
            entry("vp", "fast", 6.0, bits_per_dim=2.1, bits_per_dim_std_error=0.03),
            entry("vp", "PC", 3.0),
        ]
    )
    likelihood = "2.000 ± 0.020 ± 0.100"  # one for all samplers
    assert lines == [
        f"| VP | PC | {likelihood} | 5.00 ± 0.50 | 3.0 (2.0 to 4.0) | 0.50 ± 0.10 | 0.50 ± 0.10 | 17 | 3 |",
        f"| VP | fast | {likelihood} | 7.00 ± 0.50 ± 1.00 | 5.0 (4.0 to 6.0) ± 1.0 | 0.50 ± 0.10 ± 0.00 | "
        "0.50 ± 0.10 ± 0.00 | 17 | 3 |",
    ]


@pytest.mark.parametrize("process", ["vp", "subvp", "ve"])
def test_every_sampler_can_be_had_of_every_process(samplers, recorded, process):
    run = recorded("run", process)
    for sampler in samplers.SAMPLERS:
        build_experiment(samplers.configuration(run, sampler, 40, 0))


def test_runs_are_measured_on_as_many_images_as_one_another(samplers, recorded):
    runs = recorded("a", "vp", examples=7), recorded("b", "vp", examples=9)
    found = [samplers.configuration(run, "fast", 40, 5).likelihood for run in runs]
    assert found[0] == found[1] and found[0].num_examples == 5


def test_two_runs_of_one_process_and_seed_are_refused(samplers, recorded, tmp_path):
    first, second, other = recorded("a", "vp"), recorded("b", "vp"), recorded("c", "vp", seed=1)
    assert samplers.parse([str(first), str(other)]).runs == [first, other]
    with pytest.raises(UserError, match="same process and seed"):
        samplers.parse([str(first), str(second)])
    with pytest.raises(UserError, match="There is no config file"):
        samplers.parse([str(tmp_path / "none")])


def test_measurements_of_another_run_are_not_taken_for_its_own(samplers, recorded, tmp_path):
    first, second, out = recorded("a", "vp"), recorded("b", "vp"), tmp_path / "out"
    (out / "vp-42-fast").mkdir(parents=True)
    (first / "checkpoints").mkdir()
    (out / "vp-42-fast" / "checkpoints").symlink_to(first / "checkpoints")
    options = samplers.parse([str(second), f"--out={out}"])
    with pytest.raises(UserError, match="give another --out"):
        samplers.measured(second, "fast", options)
