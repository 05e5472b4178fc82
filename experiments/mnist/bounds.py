"""The bound of a trained model on test images, given their classes and without: two bounds on the images alone.

    python experiments/mnist/bounds.py --model=mnist-vdm --data_dir=D --times=8

Of a model that knows classes, ``-log2 P(image | class) + log2(classes)`` bounds the bits of an image too, whichever
class is given, since ``P(image) >= P(image, class)``. Both bounds share times and noise, so that their difference is
surer than either. A model without classes has one bound. A model is a name, a folder or a working directory.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from score_sde.cli import run_script
from score_sde.data import load_source
from score_sde.data.base import labels_of
from score_sde.labels import Conditioned
from score_sde.likelihood import level_bound


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-vdm", help="a pretrained model, a folder or a working directory")
    parser.add_argument("--data_dir", required=True, help="directory of the data set")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--times", type=int, default=8, help="noise levels per image")
    parser.add_argument("--batch_size", type=int, default=125, help="images at a time")
    args = parser.parse_args()
    model = score_sde.load(args.model)
    experiment = model.experiment
    source = load_source(experiment.settings.data.name, "test", data_dir=args.data_dir)
    rows, began = np.arange(min(args.images, len(source))), time.perf_counter()
    classes = experiment.num_classes
    found, bits = [], measured(model, args.times)
    asked = [np.full(len(rows), -1), *([labels_of(source, rows)] if classes else [])]
    for part in np.array_split(rows, math.ceil(len(rows) / args.batch_size)):
        key, levels = jax.random.fold_in(jax.random.key(0), int(part[0])), source.gather(part)
        found.append(np.stack([bits(key, levels, labels[part]) for labels in asked]))
        print(f"\r{part[-1] + 1} images", end="", flush=True)
    alone, *given = np.concatenate(found, axis=1)
    shown = {"without a class": alone}
    if given:
        joint = given[0] + math.log2(classes) / math.prod(experiment.event_shape)
        shown |= {
            "given the class": given[0],
            "image and class": joint,
            "without a class - image and class": alone - joint,
        }
    print(f"\r{len(rows)} images, {args.times} times each, {time.perf_counter() - began:.0f} s, in bits/dim")
    for name, values in shown.items():
        print(f"{name}: {values.mean():.4f} +- {values.std(ddof=1) / math.sqrt(len(values)):.4f}")


def measured(model: score_sde.Model, num_times: int) -> Callable[..., np.ndarray]:
    """The function ``(key, levels, labels) -> bits per dimension`` of each image; label -1 is no class."""
    experiment = model.experiment
    bit = math.prod(experiment.event_shape) * math.log(2.0)

    def bits(params: Any, key: Any, levels: Any, labels: Any) -> Any:
        score = experiment.score_fn(Conditioned(params, labels) if experiment.num_classes else params)
        return level_bound(key, experiment.sde, score, levels, experiment.quantization, num_times=num_times).value / bit

    program = jax.jit(bits)
    return lambda *given: np.asarray(program(model.params, *map(jnp.asarray, given)))


if __name__ == "__main__":
    sys.exit(run_script("bounds", main))
