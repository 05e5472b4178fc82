"""Variational diffusion through the command line: gray levels enter, and no noise is drawn in their bins."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import load_config, main
from score_sde.fields import Settings
from score_sde.modes.workdir import build_experiment
from score_sde.validation import problems_of, purposes_of

CONFIG = Path(__file__).parents[2] / "configs" / "vdm" / "digits.py"
TINY = (
    *(
        "--config.model.features=4",
        "--config.model.channel_multipliers=(1,)",
        "--config.model.attention_resolutions=()",
    ),
    *("--config.training.num_steps=2", "--config.training.batch_size=4", "--config.training.log_every=2"),
    *("--config.training.eval_every=2", "--config.training.checkpoint_every=2", "--config.training.sample_every=0"),
    *("--config.likelihood.num_examples=4", "--config.likelihood.batch_size=4", "--config.likelihood.num_steps=4"),
    *("--config.likelihood.bound_times=4", "--config.likelihood.budget_examples=2"),
    "--config.likelihood.noise_levels=2",
)


def _run(workdir, mode, *flags):
    return main([f"--config={CONFIG}", f"--workdir={workdir}", f"--mode={mode}", *TINY, *flags])


def test_training_sees_the_middle_of_the_bins():
    experiment = build_experiment(load_config(CONFIG, list(TINY)))
    levels = jnp.arange(16).reshape(1, 4, 4, 1)
    first, second = (experiment.prepare(jax.random.key(seed), levels) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, 2.0 * (levels + 0.5) / 17.0 - 1.0, rtol=1e-6)


@pytest.mark.slow
def test_the_likelihood_and_the_bound_are_of_the_gray_levels(tmp_path):
    """An untrained network knows nothing: the flow keeps N(0, I), of which the levels' bits are known."""
    workdir = tmp_path / "run"
    assert not _run(workdir, "train", "--config.optim.lr=0.0")
    assert not _run(workdir, "likelihood")
    report = json.loads((workdir / "likelihood.json").read_text())
    assert "truncated normal dequantization" in report["protocol"]
    assert report["budget"]["truncation"] == {"mean": 0.0, "std_error": 0.0}
    # The bound is one on the same quantity, and no closer than the flow but for its error.
    gap = report["bound_bits_per_dim"] - report["bits_per_dim"]
    assert gap > -4.0 * np.hypot(report["bound_std_error"], report["std_error"])


@pytest.mark.slow
def test_the_flow_is_solved_for_the_first_examples_alone_and_the_bound_for_all(tmp_path):
    assert not _run(tmp_path, "train")
    columns = []
    for out, flow_examples in (("few", 3), ("all", 0)):
        flags = ["--config.likelihood.num_examples=8", f"--config.likelihood.flow_examples={flow_examples}"]
        assert not _run(tmp_path, "likelihood", *flags, f"--out={tmp_path / out}")
        with np.load(tmp_path / out / "likelihood.npz") as file:
            columns.append(dict(file))
    few, whole = columns
    assert [len(few[name]) for name in ("bits_per_dim", "bound_bits_per_dim")] == [3, 8]
    np.testing.assert_array_equal(few["bound_bits_per_dim"], whole["bound_bits_per_dim"])
    report = json.loads((tmp_path / "few" / "likelihood.json").read_text())
    assert report["num_examples"] == 3 and report["bound_num_examples"] == 8
    assert "3 examples of the test split" in report["protocol"]
    assert "; 8 examples" in (tmp_path / "few" / "summary.md").read_text()


def test_a_decoder_beside_such_noise_is_refused_where_it_is_read():
    settings = Settings.of(load_config(CONFIG, [*TINY, "--config.likelihood.decoder=True"]))
    assert not list(problems_of(settings, (8, 8, 1), 17, purposes_of("train", settings)))
    (problem,) = problems_of(settings, (8, 8, 1), 17, purposes_of("likelihood", settings))
    assert "has the noise of t_min already" in problem
