"""The sweep over samplers: what it counts, what it compiles, what it recommends, and the page a user gets."""

import dataclasses
import json
import math

import numpy as np
import pytest

from score_sde.cli import main
from score_sde.evaluation.pareto import Point, Setting, _distance, front, measure, recommended, settings_of
from score_sde.metrics import moments
from score_sde.modes.workdir import build_experiment


def point(evals, distance, solver="heun"):
    setting = Setting(solver=solver, grid="edm", num_steps=evals)
    return Point(setting=setting, num_evals=evals, distance=distance, std_error=0.0, seconds=1.0)


def test_the_front_holds_what_no_other_point_beats():
    points = [point(8, 3.0), point(4, 5.0), point(16, 3.5), point(8, 2.0), point(32, 1.0), point(64, math.inf)]
    assert [(p.num_evals, p.distance) for p in front(points)] == [(4, 5.0), (8, 2.0), (32, 1.0)]


def test_the_cheapest_setting_within_five_per_cent_is_recommended():
    points = [point(4, 5.0), point(8, 1.04), point(16, 1.0)]
    assert recommended(points, [point(1000, 1.0), point(1000, 7.0)]) == points[1]
    assert recommended(points, [point(1000, 0.5)]) is None


def config_file(tmp_path, **fields):
    lines = "".join(f"    config.{name} = {value!r}\n" for name, value in fields.items())
    path = tmp_path / "config.py"
    path.write_text(
        "from configs.vp.toy_mlp import get_config as toy\n\n\ndef get_config():\n    config = toy()\n"
        f"{lines}    return config\n"
    )
    return path


FIELDS = {
    "model.features": 16,
    "training.num_steps": 10,
    "training.log_every": 10,
    "training.eval_every": 10,
    "training.checkpoint_every": 10,
    "training.steps_per_dispatch": 1,
    "pareto.num_samples": 50,
    "pareto.evals": (5, 8),
    "pareto.grids": ("log_snr", "uniform"),
    "pareto.solvers": ("heun", "unipc_3"),
}


@pytest.fixture
def experiment(tmp_path):
    from score_sde.cli import load_config

    return build_experiment(load_config(config_file(tmp_path, **FIELDS), []))


def test_steps_are_what_the_evaluations_pay_for(experiment):
    references, settings = settings_of(experiment)
    assert all(reference.num_steps == 1000 for reference in references)
    heun = {s.num_steps for s in settings if s.solver == "heun"}
    assert heun == {2, 3}  # (5 - 1) / 2 and (8 - 1) / 2: the last evaluation denoises
    assert {s.num_steps for s in settings if s.solver == "unipc_3"} == {4, 7}


class Counting:
    """A network that counts how often it is traced."""

    def __init__(self, network):
        self.network, self.traces, self.init = network, 0, network.init

    def apply(self, *args, **keywords):
        self.traces += 1
        return self.network.apply(*args, **keywords)


@pytest.mark.slow
def test_a_solver_is_compiled_once_whatever_the_grid_and_the_number_of_steps(experiment):
    """And padding the grids to one length changes no sample."""
    data, params = moments(np.random.RandomState(0).randn(100, 2)), experiment.init_state().params
    settings = [Setting(solver="unipc_2", grid=grid, num_steps=n) for grid in ("log_snr", "edm") for n in (3, 6, 11)]
    networks = [Counting(experiment.network) for _ in range(2)]
    alone, swept = (
        list(measure(dataclasses.replace(experiment, network=network), params, data, chosen))
        for network, chosen in zip(networks, (settings[:1], settings), strict=True)
    )
    assert networks[0].traces == networks[1].traces > 0
    assert [p.num_evals for p in swept] == [4, 7, 12] * 2
    assert len({p.distance for p in swept}) == 6
    assert abs(swept[0].distance / alone[0].distance - 1) < 1e-6


def test_the_bootstrap_gives_the_spread_of_the_distance():
    """Over independent draws of all samples."""
    data = moments(np.random.RandomState(0).randn(2000, 3))
    found = [_distance(np.random.RandomState(seed).randn(300, 3) * 1.3, data) for seed in range(1, 41)]
    spread = np.std([distance for distance, _ in found], ddof=1)
    assert 0.6 < np.mean([error for _, error in found]) / spread < 1.6


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pareto.solvers=('hein',)", "Did you mean 'heun'?"),
        ("pareto.grids=('edn',)", "Did you mean 'edm'?"),
        (
            "pareto.evals=(2,)",
            "config.pareto.evals is (2,); expected a tuple of 1 to 100 different entries, each an integer from 3",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_restored(tmp_path, capsys, override, said):
    arguments = [f"--config={config_file(tmp_path, **FIELDS)}", f"--workdir={tmp_path / 'run'}", "--mode=pareto"]
    assert main([*arguments, f"--config.{override}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_modes_leave_a_page_with_a_setting_that_can_be_pasted(tmp_path, capsys):
    arguments = [f"--config={config_file(tmp_path, **FIELDS)}", f"--workdir={tmp_path / 'run'}"]
    for mode in ("train", "pareto", "latents"):
        assert main([*arguments, f"--mode={mode}"]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "pareto.json").read_text())
    page = (tmp_path / "run" / "pareto.md").read_text()
    assert len(report["points"]) == 2 * 2 * 2 and (tmp_path / "run" / "pareto.png").stat().st_size > 1000
    assert "**Recommended**" in page
    if report["recommended"]:
        chosen = report["recommended"]["setting"]
        flags = f"--config.sampling.predictor={chosen['solver']} --config.sampling.grid={chosen['grid']}"
        assert flags in page
        assert main([*arguments, "--mode=sample", *flags.split()]) == 0
    with np.load(tmp_path / "run" / "latents.npz") as codes:
        np.testing.assert_allclose(codes["decoded"], codes["data"], atol=0.02)  # continuous data: there and back
