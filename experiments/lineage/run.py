"""The ancestors of diffusion models on the same images, in one table: trained, sampled and measured by one command.

    python experiments/lineage/run.py --out=runs/lineage --seeds=3

Every ancestor is a configuration in ``configs/`` and goes through the modes of the command line. A run that was
interrupted goes on where it was, and what is there already is not measured again. At the end ``table.md``,
``table.json`` and ``samples.png`` are in the directory.
"""

import argparse
import hashlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import numpy as np
from table import Measured, write_results

from score_sde.chains import langevin_step, noise_ratio, num_noise_levels
from score_sde.config import ConfigDict, from_file
from score_sde.data import load_source
from score_sde.errors import UserError, unknown
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, check_writable
from score_sde.metrics import Moments, frechet_interval, moments
from score_sde.metrics.extractors import Extractor, make_extractor
from score_sde.modes import MODES
from score_sde.modes.workdir import build_experiment, data_info

CONFIGS = Path(__file__).parent / "configs"

#: Ancestors in the order of their papers.
NAMES = ("vae", "dpm", "sliced", "ncsn", "ddpm", "ve", "vp", "subvp", "scoreflow")

#: Groups of fields that decide what is trained, and what a stage reads besides.
TRAINED = ("seed", "sde", "parameterization", "model", "data", "objective", "optim", "training")
GROUPS = {
    "train": (),
    "train_dequantizer": ("dequantizer",),
    "sample": ("sampling",),
    "likelihood": ("dequantizer", "likelihood"),
}

MNIST_SIGMA = 30.0  # about the largest distance between two digits of 28x28


def configuration(name: str, options: argparse.Namespace, seed: int) -> Settings:
    """The configuration of an ancestor, with what the command line changes."""
    config = from_file(CONFIGS / f"{name}.py")
    if options.data == "mnist":
        _for_mnist(config, options.data_dir)
    config.seed = seed
    if options.steps:
        _shorten(config, options.steps)
    if options.samples:
        config.sampling.num_samples = options.samples
        config.sampling.batch_size = min(options.samples, config.sampling.batch_size)
    if options.examples:
        config.likelihood.num_examples = options.examples
        config.likelihood.batch_size = min(options.examples, config.likelihood.batch_size)
        config.likelihood.budget_examples = min(options.examples, config.likelihood.budget_examples)
    return Settings.of(config)


def _shorten(config: ConfigDict, steps: int) -> None:
    """Train for so many steps, and a dequantizer for a third of them, with intervals that divide them."""
    for settings, count in ((config.training, steps), (config.dequantizer, max(steps // 3, 1))):
        settings.num_steps = count
        settings.eval_every = settings.log_every * max(1, min(settings.eval_every, count) // settings.log_every)
        settings.checkpoint_every = settings.eval_every
    config.optim.warmup = min(config.optim.warmup, steps // 4)
    config.dequantizer.warmup = min(config.dequantizer.warmup, steps // 12)


def _for_mnist(config: ConfigDict, data_dir: str) -> None:
    """The same systems on larger images, with the network of ``configs/vp/mnist_ddpmpp_small.py``."""
    small = from_file(Path(__file__).parents[2] / "configs" / "vp" / "mnist_ddpmpp_small.py")
    config.data.name, config.data.data_dir = "mnist", data_dir
    config.parameterization.data_std = small.parameterization.data_std
    for field in ("channel_multipliers", "attention_resolutions", "features", "num_blocks"):
        config.model[field] = small.model[field]
    for field in ("num_steps", "batch_size", "eval_every", "checkpoint_every"):
        config.training[field] = small.training[field]
    config.optim.lr = min(config.optim.lr, small.optim.lr)
    config.optim.warmup = small.optim.warmup
    config.likelihood.num_examples = config.likelihood.batch_size = 256
    config.likelihood.bound_times = small.likelihood.bound_times
    config.likelihood.budget_examples = 8  # 64 take as long as all the rest
    if config.sde.name == "ve":
        config.sde.sigma_max = MNIST_SIGMA
    if config.sampling.corrector == "annealed_langevin":
        count = num_noise_levels(28 * 28, config.sde.sigma_min, MNIST_SIGMA)
        step = langevin_step(noise_ratio(28 * 28), config.sampling.num_corrections, config.sde.sigma_min)
        config.parameterization.num_scales, config.sampling.num_steps = count, count - 1
        config.sampling.snr = float(np.sqrt(step / 2.0) / config.sde.sigma_min)


def stages(config: Settings) -> Iterator[str]:
    """The modes that an ancestor goes through."""
    yield "train"
    if config.dequantizer.name != "none":
        yield "train_dequantizer"
    yield from ("sample", "likelihood")


def run_one(name: str, options: argparse.Namespace, seed: int) -> tuple[Path, Settings]:
    """Bring one run to its end; its directory and configuration."""
    config = configuration(name, options, seed)
    workdir = options.out / options.data / name / f"seed{seed}"
    check_writable(workdir)
    for stage in stages(config):
        logging.info("%s, seed %d: %s.", name, seed, stage)
        timed(stage, config, workdir, options.command, MODES[stage])
    return workdir, config


def timed(stage: str, config: Settings, workdir: Path, command: str, mode: Callable[..., Any]) -> None:
    """Run a mode, unless ``stages.json`` says that it is done for this configuration, and add up its seconds."""
    path, identity = workdir / "stages.json", _identity(stage, config)
    record = json.loads(path.read_text()) if path.is_file() else {}
    found = record.get(stage, {})
    if found.get("config") != identity:
        found = {"config": identity, "seconds": 0.0, "done": False}
    if found["done"]:
        return
    start = time.perf_counter()
    try:
        mode(config, workdir, command)
        found["done"] = True
    finally:
        found["seconds"] += time.perf_counter() - start
        atomic_write_json(path, record | {stage: found})


def _identity(stage: str, config: Settings) -> str:
    """A digest of the fields that decide what a stage leaves behind."""
    fields = config.to_dict()
    own = json.dumps({group: fields[group] for group in (*TRAINED, *GROUPS[stage])}, sort_keys=True)
    return hashlib.sha256(own.encode()).hexdigest()


def measured(name: str, seed: int, workdir: Path, config: Settings, compare: "Comparison") -> Measured:
    """What the files of a finished run say, and the distance of its samples."""
    seconds = {stage: found["seconds"] for stage, found in json.loads((workdir / "stages.json").read_text()).items()}
    with np.load(workdir / "samples.npz") as found:
        samples = found["samples"]
    params = build_experiment(config).abstract_state().params
    return Measured(
        name=name,
        seed=seed,
        likelihood=json.loads((workdir / "likelihood.json").read_text()),
        sampling=json.loads((workdir / "sampling.json").read_text()),
        frechet=frechet_interval(compare.features(samples), compare.reference),
        parameters=sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)),
        seconds=seconds,
        pictures=samples[:16],
    )


class Comparison:
    """What the samples of all are compared with: the training images, in the features of one extractor."""

    def __init__(self, config: Settings) -> None:
        """Choose the extractor and take the moments of the training images."""
        info = data_info(config)
        self._config, self.num_levels = config, info.num_grey_levels
        self.extractor: Extractor = make_extractor(
            "auto", shape=info.shape, num_levels=info.num_grey_levels, source=config.data.name
        )
        self.reference: Moments = moments(self.features(self.images("train")))

    def features(self, images: np.ndarray) -> np.ndarray:
        """The features of images as levels."""
        return self.extractor(images.astype(np.uint8)).features

    def images(self, split: str) -> np.ndarray:
        """The images of a split."""
        source = load_source(self._config.data.name, split, data_dir=self._config.data.data_dir or None)
        return source.gather(np.arange(len(source)))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags.

    Raises:
        UserError: For an unknown ancestor, and for no seeds.
    """
    parser = argparse.ArgumentParser(description="The ancestors of diffusion models, in one table.")
    parser.add_argument("--out", type=Path, default=Path("runs/lineage"), help="where runs and table go")
    parser.add_argument("--only", default="", help=f"ancestors to run, such as vae,ddpm; of {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--data", default="digits", choices=("digits", "mnist"))
    parser.add_argument("--data-dir", default="", help="of mnist")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0 for those of the configuration")
    parser.add_argument("--samples", type=int, default=0, help="samples to draw; 0 for those of the configuration")
    parser.add_argument("--examples", type=int, default=0, help="held-out images to measure; 0 for all")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name] or list(NAMES)
    for name in options.only:
        if name not in NAMES:
            raise unknown("ancestor", name, NAMES)
    if options.seeds < 1:
        raise UserError(f"--seeds is {options.seeds}; expected at least 1.")
    options.command = shlex.join(["python", "experiments/lineage/run.py", *arguments])
    return options


def main(arguments: list[str]) -> None:
    """Run all that was asked for and write the table."""
    options = parse(arguments)
    compare = Comparison(configuration(options.only[0], options, 0))
    rows = []
    for seed in range(options.seeds):  # a table of all with one seed comes first
        for name in options.only:
            workdir, config = run_one(name, options, seed)
            rows.append(measured(name, seed, workdir, config, compare))
            jax.clear_caches()
    held_out = compare.images("test")
    write_results(
        rows,
        options.out / options.data,
        command=options.command,
        extractor=compare.extractor.name,
        data_distance=frechet_interval(compare.features(held_out), compare.reference),
        data_pictures=held_out[:16],
        num_levels=compare.num_levels or 256,
    )
    print((options.out / options.data / "table.md").read_text())


if __name__ == "__main__":
    sys.exit(run_script("lineage", lambda: main(sys.argv[1:])))
