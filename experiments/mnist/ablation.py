"""Bits per dimension against the cost of the network: short trainings of one configuration with changes.

    python experiments/mnist/ablation.py --data_dir=D --steps=1500 --out=runs/ablation.jsonl base wide:model.features=96

Every variant is a name with changes of fields. One line is printed and appended for each: parameters, floating-point
operations of a forward pass by XLA's count, milliseconds of a step, and the bound of the averaged parameters on the
first test images with the same times and noise for all. The networks are told no classes. A variant whose line is in
the file is not trained again.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.cli import load_config, run_script
from score_sde.data import load_source
from score_sde.distributed import jit
from score_sde.experiment import Experiment
from score_sde.likelihood import level_bound


def main() -> None:
    """Train the variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", help="NAME or NAME:field=value,field=value")
    parser.add_argument("--config", default="configs/vdm/mnist.py", help="configuration that is changed")
    parser.add_argument("--data_dir", required=True, help="directory of the data set")
    parser.add_argument("--steps", type=int, default=1500, help="steps of training")
    parser.add_argument("--images", type=int, default=512, help="test images")
    parser.add_argument("--times", type=int, default=32, help="noise levels per test image")
    parser.add_argument("--out", required=True, help="file of the results, a line each")
    args = parser.parse_args()
    out = Path(args.out)
    done = {json.loads(line)["variant"] for line in out.read_text().splitlines()} if out.exists() else set()
    for variant in args.variants:
        if variant in done:
            continue
        line = json.dumps({"variant": variant, **measure(variant, args)})
        print(line, flush=True)
        with out.open("a") as file:
            file.write(line + "\n")


def measure(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one variant and measure it."""
    changes = [f"--config.{change}" for change in variant.partition(":")[2].split(",") if change]
    fixed = [f"--config.data.data_dir={args.data_dir}", f"--config.training.num_steps={args.steps}"]
    fixed.append("--config.conditioning.classes=False")
    config = load_config(Path(args.config), [*fixed, *(change.replace(";", ",") for change in changes)])
    train, test = (load_source(config.data.name, split, data_dir=args.data_dir) for split in ("train", "test"))
    experiment = Experiment.from_config(config, train.info.shape, train.info.num_grey_levels)
    state, step = experiment.init_state(), jit(experiment.train_step, donate_argnums=0)
    rng, size = np.random.default_rng(experiment.settings.seed), experiment.settings.training.batch_size
    times, losses = [], []
    for _ in range(args.steps):
        batch = jnp.asarray(train.gather(rng.integers(len(train), size=size)))
        began = time.perf_counter()
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        times.append(time.perf_counter() - began)
    bits, error = bound(experiment, state.ema_params, test.gather(np.arange(args.images)), args.times)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "forward_megaflop": flops(experiment, state.params) / 1e6,
        "step_ms": 1e3 * float(np.median(times[len(times) // 2 :])),
        "batch": size,
        "steps": args.steps,
        "train_loss": float(np.mean(losses[-200:])),
        "bits_per_dim": bits,
        "std_error": error,
    }


def bound(experiment: Experiment, params: Any, levels: np.ndarray, num_times: int) -> tuple[float, float]:
    """The mean bound in bits per dimension, and its error."""
    sde, quantization = experiment.sde, experiment.quantization

    @jit
    def of_batch(params: Any, levels: Any) -> Any:
        return level_bound(
            jax.random.key(1), sde, experiment.score_fn(params), levels, quantization, num_times=num_times
        ).value

    nats = np.concatenate([np.asarray(of_batch(params, jnp.asarray(part))) for part in np.split(levels, 4)])
    bits = nats / (math.prod(experiment.event_shape) * math.log(2.0))
    return float(bits.mean()), float(bits.std() / math.sqrt(len(bits)))


def flops(experiment: Experiment, params: Any) -> float:
    """Operations of one forward pass of one image."""
    x, t = jnp.zeros((1, *experiment.event_shape)), jnp.full(1, 0.5)
    compiled = jax.jit(lambda params: experiment.score_fn(params)(x, t)).lower(params).compile()
    cost = compiled.cost_analysis()
    return float(cost["flops"]) if isinstance(cost, dict) else float("nan")


if __name__ == "__main__":
    sys.exit(run_script("ablation", main))
