"""Train the small classifiers whose features measure distances between images of digits.

    python experiments/metrics/train_classifier.py digits
    python experiments/metrics/train_classifier.py mnist --data-dir DIRECTORY

Prints the accuracy on the test set after every tenth of the training, and writes the weights of the last step, whatever
its accuracy, to the folder of the package, or to --output. The test set chooses nothing.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from score_sde.cli import run_script
from score_sde.data import Source, load_source
from score_sde.distributed import jit
from score_sde.interop import write_safetensors
from score_sde.metrics.extractors.classifier import (
    ARCHITECTURES,
    WEIGHTS,
    Architecture,
    classify,
    make_classifier,
    parameter_shapes,
)

STEPS = {"digits": 3000, "mnist": 6000}
SHIFT = {"digits": 1, "mnist": 2}  # pixels that an image is moved by, at most, in each direction
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2


def initial(architecture: Architecture, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """He's normal kernels, zero biases."""
    return {
        name: (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])) * name.endswith("kernel")).astype(np.float32)
        for name, shape in parameter_shapes(architecture).items()
    }


def shifted(images: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Every image moved by its own number of pixels, with black where nothing was."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    rows, columns = rng.integers(0, 2 * most + 1, (2, len(images)))
    index = np.arange(len(images))[:, None, None]
    return padded[
        index, (rows[:, None] + np.arange(height))[:, :, None], (columns[:, None] + np.arange(width))[:, None]
    ]


def everything(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """All images of a source and their labels."""
    index = np.arange(len(source))
    labels = source.labels(index)
    assert labels is not None, "the data set has no labels"
    return source.gather(index), labels


def train(data: str, data_dir: str | None, output: Path) -> None:
    """Train on the training set, and write the weights."""
    architecture, steps = ARCHITECTURES[data], STEPS[data]
    rng = np.random.default_rng(0)
    images, labels = everything(load_source(data, "train", data_dir=data_dir))
    test_images, test_labels = everything(load_source(data, "test", data_dir=data_dir))
    optimizer = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps), weight_decay=WEIGHT_DECAY)
    params = jax.tree.map(jnp.asarray, initial(architecture, rng))
    state = optimizer.init(params)

    def loss_fn(params: dict[str, Array], batch: Array, targets: Array) -> Array:
        _, logits = classify(architecture, params, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def step(params: dict[str, Array], state: optax.OptState, batch: Array, targets: Array) -> tuple:
        loss, gradient = jax.value_and_grad(loss_fn)(params, batch, targets)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jit(step, donate_argnums=(0, 1))
    start = time.perf_counter()
    for number in range(1, steps + 1):
        chosen = rng.integers(0, len(images), BATCH_SIZE)
        batch = shifted(images[chosen], SHIFT[data], rng)
        params, state, loss = compiled(params, state, batch, labels[chosen])
        if number % (steps // 10) == 0:
            metadata = {"data": data, "trained_by": "experiments/metrics/train_classifier.py", "steps": str(number)}
            write_safetensors(output, jax.device_get(params), metadata)
            logits = make_classifier(data, weights=output)(test_images).logits
            assert logits is not None, "a classifier has logits"
            correct = np.mean(logits.argmax(axis=1) == test_labels)
            seconds = time.perf_counter() - start
            print(f"{data} step {number}: loss {float(loss):.4f}, test {correct:.2%}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(STEPS))
    parser.add_argument("--data-dir", help="where TFDS data sets and their original files are")
    parser.add_argument("--output", type=Path, help="file of the weights")
    arguments = parser.parse_args()
    train(arguments.data, arguments.data_dir, arguments.output or WEIGHTS / f"{arguments.data}.safetensors")


if __name__ == "__main__":
    sys.exit(run_script("train_classifier", main))
