"""Series, tables and volumes from a file to likelihood, samples and pictures, against Gaussians of known density."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from score_sde.cli import main
from score_sde.modes import TABLE
from tests.training.test_resume import ROOT

CONFIG = ROOT / "configs/vp/toy_mlp.py"
UNET = {"model.name": "ncsnpp", "model.channel_multipliers": (1, 1), "model.attention_resolutions": ()}
TINY = {
    **{"model.features": 8, "model.num_blocks": 1, "training.num_steps": 2, "training.batch_size": 4},
    **{"training.log_every": 1, "training.eval_every": 2, "training.checkpoint_every": 2, "training.sample_every": 2},
    **{"optim.warmup": 1, "sampling.num_samples": 4, "sampling.num_steps": 2, "likelihood.batch_size": 4},
    **{"likelihood.num_examples": 4, "likelihood.num_steps": 3, "likelihood.num_probes": 1},
    **{"likelihood.budget_examples": 2, "likelihood.noise_levels": 2, "likelihood.bound_times": 2},
    **{"evaluation.num_samples": 40, "sampling.batch_size": 40, "data.standardize": "columns"},
}
#: The shape of an example, the units of its columns, and how many nats a briefly trained network may be off: measured
#: were 0.04 +- 0.01 for the series and 0.24 +- 0.03 for the table, whose units alone are 6 nats.
CASES = {
    "series": ((8, 1), [30.0], 0.15),
    "table": ((4,), [1e-3, 1.0, 50.0, 1e4], 0.4),
    "field": ((2, 3, 2, 1), [0.2], 0.5),
}


def gaussian(shape, units, n, seed):
    """Examples of a Gaussian field whose correlation falls by half from place to place, and their mean ``-log p``."""
    places = np.argwhere(np.ones(shape))
    covariance = 0.5 ** np.abs(places[:, None] - places[None]).sum(axis=-1)
    scale = np.broadcast_to(units, shape).reshape(-1)
    covariance = covariance * np.outer(scale, scale)
    x = np.random.RandomState(seed).multivariate_normal(2.0 * scale, covariance, size=n).astype(np.float32)
    away = x - 2.0 * scale
    quadratic = np.einsum("ni,ni->n", away, np.linalg.solve(covariance, away.T).T)
    nll = 0.5 * (quadratic + np.linalg.slogdet(2.0 * np.pi * covariance)[1])
    return x.reshape(n, *shape), nll


def run(mode, workdir, fields):
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--config={CONFIG}", f"--workdir={workdir}", f"--mode={mode}", *flags])


def fields_of(case, file, **changes):
    shape, _, _ = CASES[case]
    return {**TINY, **(UNET if len(shape) > 1 else {}), "data.name": f"npz:{file}", **changes}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["table", "series", pytest.param("field", marks=pytest.mark.slow)])
def test_every_mode_takes_the_shape_and_says_where_its_results_are(tmp_path, case, caplog):
    shape, units, _ = CASES[case]
    x, _ = gaussian(shape, units, 24, seed=0)
    np.savez(tmp_path / "data.npz", train=x, test=x[:8])
    fields = fields_of(case, tmp_path / "data.npz")
    for mode in ("train", "sample", "likelihood", "eval"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert run(mode, tmp_path / "run", fields) == 0, mode
        result = tmp_path / "run" / TABLE[mode].look_at
        assert result.is_file() and caplog.messages[-1] == f"See {result}."
    with np.load(tmp_path / "run" / "samples.npz") as file:
        assert file["samples"].shape == (4, *shape) and file["samples"].dtype == np.float32
    for picture in ("samples.png", "trajectory.png", "progress/step_00000002.png"):
        assert min(np.asarray(Image.open(tmp_path / "run" / picture)).shape[:2]) > 40
    (entry,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())["checkpoints"]
    assert set(entry["metrics"]) == {"sliced_wasserstein", "energy"}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_the_likelihood_of_a_trained_network_is_near_the_density(tmp_path, case):
    shape, units, off = CASES[case]
    x, _ = gaussian(shape, units, 20_000, seed=0)
    held_out, nll = gaussian(shape, units, 500, seed=1)
    np.savez(tmp_path / "data.npz", train=x, test=held_out)
    trained = {
        **{"model.features": 32, "model.num_blocks": 2, "training.num_steps": 1500, "training.batch_size": 128},
        **{"training.log_every": 100, "training.eval_every": 1500, "training.checkpoint_every": 1500},
        **{"training.sample_every": 0, "optim.warmup": 100, "likelihood.batch_size": 250},
        **{"likelihood.num_examples": 500, "likelihood.num_probes": 0, "likelihood.num_steps": 40},
        **{"likelihood.budget_examples": 100, "likelihood.bound_times": 0, "likelihood.noise_levels": 0},
    }
    fields = fields_of(case, tmp_path / "data.npz", **trained)
    for mode in ("train", "likelihood"):
        assert run(mode, tmp_path / "run", fields) == 0, mode
    report = json.loads((tmp_path / "run" / "likelihood.json").read_text())
    with np.load(tmp_path / "run" / "likelihood.npz") as file:
        gap = -file["nats"] - nll  # the same examples: their own spread leaves the difference
    error = gap.std() / np.sqrt(len(gap))
    slack = 3.0 * error + abs(report["budget"]["solver"]["mean"]) + abs(report["budget"]["truncation"]["mean"])
    assert -slack < gap.mean() < off, (gap.mean(), error, report["budget"])
    bits = report["density_bits_per_dim"]
    np.testing.assert_allclose(bits, -report["nats_per_example"] / (np.prod(shape) * np.log(2.0)), rtol=1e-5)
