"""The same short run on eight devices in several arrangements; test_devices.py starts this with eight host devices."""

import json
import logging
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from score_sde.config import default_config
from score_sde.data import load_source
from score_sde.distributed import AXES, batch_sharding, everywhere, jit_step, state_sharding
from score_sde.evaluation.likelihood import dataset_likelihood
from score_sde.evaluation.samples import draw_samples
from score_sde.experiment import Experiment
from score_sde.modes.training import train

BATCH = 16


def config(**changes):
    found = default_config()
    for name, value in {
        "data.name": "digits",
        "model.features": 32,
        "model.channel_multipliers": (1, 1),
        "model.num_blocks": 1,
        "model.attention_resolutions": (4,),
        "model.dropout": 0.0,
        "optim.warmup": 0,
        "optim.lr": 2e-3,
        "optim.ema_rate": 0.5,
        "training.num_steps": 20,
        "training.batch_size": BATCH,
        "training.log_every": 1,
        "training.eval_every": 20,
        "training.checkpoint_every": 10,
        "likelihood.batch_size": 297,
        "likelihood.num_steps": 4,
        "likelihood.num_examples": 20,
        "sampling.num_steps": 3,
        "sampling.num_samples": 12,
        **changes,
    }.items():
        group, _, field = name.partition(".")
        found[group][field] = value
    return found


def experiment(data, fsdp, **changes):
    devices = np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)
    return Experiment.from_config(config(**changes), (8, 8, 1), 17, mesh=mesh)


def compiled(run):
    """The training step as the compiler leaves it."""
    state = run.abstract_state()
    batch = jax.ShapeDtypeStruct((BATCH, 8, 8, 1), "uint8", sharding=batch_sharding(run.mesh))
    return jit_step(run.train_step, run.mesh, state_sharding(run.mesh, state)).lower(state, batch).compile()


def communication(program):
    """Operations between devices, and how many numbers the largest result of each kind has."""
    found, largest = Counter(), Counter()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    pattern = re.compile(rf"= (\(?.*?\)?) ({kinds})(-start)?\(")
    for line in program.as_text().splitlines():
        if match := pattern.search(line):
            shapes = re.findall(r"\[([\d,]*)\]", match[1])
            sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes]
            found[match[2]] += 1
            largest[match[2]] = max(largest[match[2]], int(max(sizes)))
    return {"count": found, "largest": largest}


def measured(run, params):
    whole = everywhere(run.mesh, params)
    likelihood = dataset_likelihood(run, whole, load_source("digits", "test"))
    return {"samples": draw_samples(run, whole).x, "bits": likelihood.bits_per_dim}


def record(run, workdir):
    state = train(run, workdir)
    flat = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state.params)}
    losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    np.savez(workdir / "result.npz", losses=np.array(losses), **flat)
    return state


def main(out, every):
    """Train in each arrangement; ``every`` takes minutes and leaves none out."""
    logging.disable()
    facts = {}
    for data, fsdp in [(1, 1), (8, 1), (1, 8), (2, 4)] if every else [(1, 1), (2, 4)]:
        run, name = experiment(data, fsdp), f"{data}x{fsdp}"
        state = record(run, out / name)
        np.savez(out / name / "measured.npz", **measured(run, state.ema_params))
        program = compiled(run)
        facts[name] = {
            "state": program.memory_analysis().argument_size_in_bytes,
            "flops": program.cost_analysis()["flops"],
            **communication(program),
        }
    (out / "facts.json").write_text(json.dumps(facts))
    record(experiment(1, 2, **{"training.accumulate": 4}), out / "accumulated")
    record(experiment(2, 2, **{"training.num_steps": 10}), out / "moved")
    for data, fsdp in [(1, 2), (1, 1)] if every else [(1, 1)]:
        shutil.copytree(out / "moved", out / f"from 2x2 to {data}x{fsdp}")
        record(experiment(data, fsdp), out / f"from 2x2 to {data}x{fsdp}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), every=sys.argv[2] == "every")
