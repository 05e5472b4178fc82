"""Does adaptive projected guidance earn its place? Recognized samples, Fréchet distance and recall by scale.

    python experiments/conditioning/projected.py

Sadat et al. 2024 (arXiv 2410.02416): with the denoised samples ``D_c`` and ``D_u`` with and without the class, the
difference ``D_c - D_u`` is shortened to a norm, its part along ``D_c`` is left out (``eta = 0``), and ``scale - 1``
times the rest is added to ``D_c``. The momentum over steps of the paper is left out: it is a state of the solver, which
a score function does not have. The model is ``digits-classes``, which comes with the package; samples of one seed begin
with the same noise in all rows. Means and standard errors are over the seeds.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from score_sde.arguments import score_at
from score_sde.cli import run_script
from score_sde.conditioning import classifier_free, halves
from score_sde.data import load_source
from score_sde.evaluation.metrics import data_statistics
from score_sde.experiment import Experiment
from score_sde.keys import sample_keys
from score_sde.labels import Conditioned, unconditioned
from score_sde.metrics import frechet_distance, moments, precision_recall
from score_sde.metrics.extractors.classifier import make_classifier
from score_sde.typing import Batch, Params, ScoreFn, Times, event_sum, expand_like


class Numbers(NamedTuple):
    """The numbers of a guidance; one compiled program serves all that are of one kind."""

    scale: float
    rescale: float = 0.0
    low: float = 0.0  # noise-to-signal ratios
    high: float = 1e9
    norm: float = 1e9  # in the range of the network
    parallel: float = 0.0  # eta


@dataclasses.dataclass(frozen=True, eq=False)
class Projected:
    """The score of projected guidance (Sadat et al. 2024, algorithm 1 without momentum)."""

    given: ScoreFn
    free: ScoreFn
    process: Any
    numbers: Numbers

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        """The conditional score and the projected update."""
        given, free = score_at(self.given, x, t), score_at(self.free, x, t)
        mean_coeff, std = self.process.marginal(t)
        to_data = expand_like(std**2 / mean_coeff, x)
        denoised, update = x / expand_like(mean_coeff, x) + to_data * given, to_data * (given - free)
        size = jnp.sqrt(event_sum(update**2))
        update = update * expand_like(jnp.minimum(1.0, self.numbers.norm / jnp.maximum(size, 1e-9)), x)
        share = event_sum(update * denoised) / jnp.maximum(event_sum(denoised**2), 1e-9)
        along = expand_like(share, x) * denoised
        return given + (self.numbers.scale - 1.0) * (update - along + self.numbers.parallel * along) / to_data


def guided(experiment: Experiment, params: Params, kind: str, numbers: Numbers) -> ScoreFn:
    """The score of a kind of guidance."""
    own, label = unconditioned(params)
    process = experiment.process
    given, free = halves(lambda x, t, labels: experiment.score_fn(Conditioned(own, labels))(x, t), label)
    if kind == "projected":
        return Projected(given, free, process, numbers)
    interval = (numbers.low, numbers.high)
    return classifier_free(given, free, numbers.scale, interval, numbers.rescale, process=process)


def drawing(experiment: Experiment, kind: str, count: int) -> Callable[..., Any]:
    """The compiled program ``(params, labels, key, numbers) -> samples``."""

    def draw(params: Params, labels: Any, key: Any, numbers: Numbers) -> Batch:
        def score_of(params: Params) -> ScoreFn:
            return guided(experiment, params, kind, numbers)

        sampler: Any = dataclasses.replace(experiment.sampler, score_of=score_of)
        return sampler.of_keys(Conditioned(params, labels), sample_keys(key, 0, count), experiment.event_shape).y

    return jax.jit(draw)


def rows_of(scale: float, norms: tuple[float, ...]) -> dict[str, tuple[str, Numbers]]:
    """The guidances of a scale by name."""
    rows = {
        "classifier-free": ("plain", Numbers(scale)),
        "rescaled by 0.7": ("plain", Numbers(scale, rescale=0.7)),
        "noise 0.3 to 3 of the signal": ("plain", Numbers(scale, low=0.3, high=3.0)),
        "projected": ("projected", Numbers(scale)),
    }
    return rows | {f"projected, norm {norm:g}": ("projected", Numbers(scale, norm=norm)) for norm in norms}


def cell(values: list[float], digits: int) -> str:
    """Mean and standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    """Sample, measure and print a row for each guidance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scales", type=float, nargs="+", default=(2.0, 4.0, 8.0), help="of the guidance")
    parser.add_argument("--norms", type=float, nargs="*", default=(3.0, 1.5), help="thresholds of the projected update")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the samples")
    parser.add_argument("--samples", type=int, default=500, help="samples of each seed")
    parser.add_argument("--steps", type=int, default=20, help="of DPM-Solver++ (2M)")
    args = parser.parse_args()
    model = score_sde.load("digits-classes")
    changes = {"predictor": "dpm_solver_2m", "grid": "log_snr", "num_steps": args.steps}
    experiment = model.experiment.with_sampling(**changes)
    extractor = make_classifier("digits")
    reference, _ = data_statistics(load_source("digits", "train"), extractor, split="train")
    assert reference.features_subset is not None
    labels = np.arange(args.samples) % experiment.num_classes
    programs = {kind: drawing(experiment, kind, args.samples) for kind in ("plain", "projected")}
    print("| scale | guidance | recognized, % | Fréchet distance | recall |")
    print("|---|---|---|---|---|")
    rows = [(1.0, "none", ("plain", Numbers(1.0)))]
    rows += [(scale, *row) for scale in args.scales for row in rows_of(scale, tuple(args.norms)).items()]
    for scale, name, (kind, numbers) in rows:
        found: list[tuple[float, float, float]] = []
        for seed in range(args.seeds):
            x = programs[kind](model.params, labels, jax.random.key(seed), numbers)
            features, logits, *_ = extractor(experiment.quantization.quantize(x))
            distance = frechet_distance(moments(features), reference.moments)
            recall = precision_recall(features, reference.features_subset).recall.value
            found.append((100.0 * float(np.mean(np.argmax(np.asarray(logits), axis=1) == labels)), distance, recall))
        cells = [cell(list(values), digits) for values, digits in zip(zip(*found, strict=True), (1, 1, 3), strict=True)]
        print(f"| {scale:g} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_script("projected", main))
