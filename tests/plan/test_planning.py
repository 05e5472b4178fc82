"""``--mode=plan``: the files it leaves, and what it says of bad input."""

import json
import os
from pathlib import Path

import jax
import pytest

from score_sde.cli import main

ROOT = Path(__file__).parents[2]
DIGITS = "configs/vp/digits_ddpmpp.py"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])


def _run(workdir, *overrides, config=DIGITS):
    overrides = [f"--config.{override}" for override in overrides]
    return main([f"--config={config}", f"--workdir={workdir}", "--mode=plan", *overrides])


@pytest.mark.slow
def test_a_plan_of_the_digits_says_what_they_need(tmp_path):
    # Smaller than it is, for most of the time goes on compiling.
    small = ("data.shape=(8,8,1)", "model.channel_multipliers=(1,)", "model.features=8")
    assert _run(tmp_path, *small, "conditioning.classifier=anywhere") == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    count = jax.device_count()
    assert plan["batch_size"] == 64 and plan["batch_per_device"] == 64 // count
    assert plan["flops_per_step"] == pytest.approx(
        64 * plan["flops_per_example"] + count * plan["flops_of_the_update"], rel=1e-6
    )
    fixed, each, usable = (plan["bytes"][name] for name in ("fixed", "per_example", "usable"))
    assert plan["fits"] and fixed + each * plan["largest_batch_per_device"] <= usable
    assert fixed + each * (plan["largest_batch_per_device"] + 1) > usable
    assert plan["bytes"]["state"] > 4 * 4 * plan["parameters"]  # with the average and two moments
    assert plan["lowers_for"] == {"tpu": True}
    assert [point["chips"] for point in plan["scaling"]] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024]
    page = (tmp_path / "plan.md").read_text()
    assert "The classifier of config.conditioning.classifier guides samples." in page
    assert "docs.cloud.google.com" in page and f"{plan['parameters']:,}" in page


@pytest.mark.long
def test_a_plan_of_the_digits_as_they_are_has_the_parameters_of_the_readme(tmp_path):
    assert _run(tmp_path) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["parameters"] == 188_769


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("plan.chip=v5ee", ["config.plan.chip is 'v5ee'", "Did you mean 'v5e'?", "a100", "cpu"]),
        ("plan.headroom=1.0", ["config.plan.headroom is 1.0", "to 0.99"]),
        ("plan.headroom=-0.1", ["config.plan.headroom is -0.1", "from 0"]),
        ("training.batch_size=63", ["batch size is 63", "multiple of 2"]),
    ],
)
def test_bad_input_is_answered_with_what_to_do(override, parts, tmp_path, capsys):
    assert _run(tmp_path / "run", override) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in parts), said
    assert not (tmp_path / "run").exists()


def test_a_topology_is_one_of_tpus(tmp_path, capsys):
    assert _run(tmp_path / "run", "plan.chip=h100", "plan.topology=2x2") == 2
    assert "expected a TPU" in capsys.readouterr().err
