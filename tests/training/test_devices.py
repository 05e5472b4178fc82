"""One run, however its devices are arranged: the same losses, parameters, samples and likelihoods.

The arrangements are trained in a process with eight host devices, see on_devices.py.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from score_sde.cli import load_config
from score_sde.distributed import AXES, MIN_SPLIT, state_sharding
from score_sde.modes.workdir import build_experiment

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


def _trained(out, which):
    # Compiling takes nearly all of the time, so it optimizes nothing, and by the flags of these tests.
    kept = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    flags = " ".join([*kept, "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"])
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.on_devices", str(out), which]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("some", marks=pytest.mark.slow, id="some"),
        pytest.param("every", marks=pytest.mark.long, id="every"),
    ],
)
def runs(request, tmp_path_factory):
    return _trained(tmp_path_factory.mktemp(f"devices_{request.param}"), request.param)


def _results(runs, name="result.npz"):
    found = {path.parent.name: dict(np.load(path)) for path in sorted(runs.glob(f"*/{name}"))}
    return found.pop("1x1"), found


def test_twenty_steps_are_the_same_twenty_steps(runs):
    """Not to the bit, for sums over a batch come in another order: losses to 1e-5, parameters to 1e-4."""
    alone, others = _results(runs)
    assert len(others) >= 3
    fresh = np.abs(alone["losses"][0] - alone["losses"][-1])
    assert fresh > 0.1  # something was learned, so that there is something to compare
    for name, other in others.items():
        losses = alone["losses"][: len(other["losses"])]
        np.testing.assert_allclose(other["losses"], losses, rtol=1e-5, err_msg=name)
        if name == "moved":  # ends after ten steps
            continue
        for leaf in alone.keys() - {"losses"}:
            np.testing.assert_allclose(other[leaf], alone[leaf], rtol=0.0, atol=1e-4, err_msg=f"{name} {leaf}")


def test_samples_and_likelihoods_are_the_same(runs):
    alone, others = _results(runs, "measured.npz")
    assert alone["samples"].std() > 0.1 and alone["bits"].std() > 0.01
    for name, other in others.items():
        np.testing.assert_allclose(other["samples"], alone["samples"], rtol=0.0, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(other["bits"], alone["bits"], rtol=0.0, atol=1e-3, err_msg=name)


def test_devices_share_the_work_and_say_no_more_than_they_must(runs):
    """Gradients are summed; parameters that are split are gathered; no activation goes from one device to another."""
    facts = json.loads((runs / "facts.json").read_text())
    alone = facts.pop("1x1")
    assert not alone["count"]
    for name, fact in facts.items():
        data, fsdp = map(int, name.split("x"))
        assert fact["flops"] < 1.2 * alone["flops"] / (data * fsdp), name
        assert set(fact["count"]) <= {"all-reduce", *(("all-gather", "reduce-scatter") if fsdp > 1 else ())}, name
        largest_kernel = 3 * 3 * 64 * 32
        assert max(fact["largest"].values()) <= largest_kernel, name
        assert fact["state"] < (0.2 + 0.8 / fsdp) * alone["state"], name


@pytest.mark.slow
def test_devices_that_share_threads_do_not_wait_for_each_other_for_good(tmp_path):
    """Five thousand steps before anything is read of them; two devices that meet nowhere are ended after 30 seconds."""
    limit = "--xla_cpu_collective_call_terminate_timeout_seconds=30"
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {limit}",
        "JAX_PLATFORMS": "cpu",
    }
    every = ("num_steps", "log_every", "eval_every", "checkpoint_every")
    fields = {**{f"training.{name}": 5000 for name in every}, "training.batch_size": 128, "model.features": 32}
    flags = [f"--config.{name}={value}" for name, value in {**fields, "training.sample_every": 0}.items()]
    command = [sys.executable, "-m", "score_sde", "--config=vp/toy_mlp", f"--workdir={tmp_path}", "--mode=train"]
    done = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.sweep
@pytest.mark.parametrize(
    "config", ["vp/cifar10_ddpmpp_continuous.py", "ve/cifar10_ncsnpp_continuous.py", "vp/ddpm/cifar10_continuous.py"]
)
def test_eight_devices_hold_less_than_a_sixth_of_the_state_each(config):
    """From the shapes of the published networks; parameters, averages and both moments of Adam."""
    experiment = build_experiment(load_config(CONFIGS / config, []))
    mesh = AbstractMesh((1, 8), AXES, axis_types=(AxisType.Auto,) * 2)
    state = jax.eval_shape(experiment.init_state)
    leaves = list(zip(jax.tree.leaves(state), jax.tree.leaves(state_sharding(mesh, state)), strict=True))
    whole = sum(math.prod(leaf.shape) for leaf, _ in leaves)
    held = sum(math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in leaves)
    assert held < whole / 6
    assert all(math.prod(leaf.shape) < MIN_SPLIT for leaf, sharding in leaves if sharding.is_fully_replicated)


def test_what_is_trained_of_one_array_is_split_alike():
    experiment = build_experiment(load_config(CONFIGS / "default.py", []))
    mesh = AbstractMesh((1, 8), AXES, axis_types=(AxisType.Auto,) * 2)
    sharding = state_sharding(mesh, jax.eval_shape(experiment.init_state))
    specs = [[leaf.spec for leaf in jax.tree.leaves(tree)] for tree in (sharding.params, sharding.ema_params)]
    moments = [s.spec for s in jax.tree.leaves(sharding.opt_state)]
    assert specs[0] == specs[1]
    count = len(specs[0])
    assert any(moments[i : i + count] == specs[0] for i in range(len(moments)))
