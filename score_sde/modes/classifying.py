"""A class-conditional model as a classifier: an example is of the class that gives it the highest likelihood."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data import Source
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import mean_and_std_error
from score_sde.evaluation.classification import (
    ClassLikelihoods,
    check_classes,
    class_likelihoods,
    confusion_matrix,
    discriminative_scores,
    verdict,
)
from score_sde.evaluation.likelihood import BinNoise, data_protocol, flow_protocol, identity_of
from score_sde.evaluation.partial import discard, partial_file
from score_sde.evaluation.results import digest, keep_earlier
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_savez, atomic_write_json, one_at_a_time
from score_sde.modes.dequantizer import load_noise
from score_sde.modes.workdir import (
    check_limit,
    experiment_of,
    kept_in,
    measured_split,
    provenance,
    summarize,
    trained_model,
)
from score_sde.report.plots import confusion
from score_sde.report.quantities import quantities_of
from score_sde.training.writers import compiling

log = logging.getLogger(__name__)


@one_at_a_time("classify")
def run_classify(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Tell the classes of held-out data: ``classification.json``, ``classification.npz``, ``confusion.png``.

    Raises:
        UserError: If the network knows no classes or no likelihood is defined for its training, if the data have no
            labels, or if nothing could be measured.
    """
    place = out or workdir
    experiment = experiment_of(config, workdir, "classify")
    check_classes(experiment)
    check_limit(config)
    (state, average), source = trained_model(experiment, workdir), measured_split(config, workdir, "test")
    noise = load_noise(experiment, workdir)
    identity = identity_of(experiment, state.ema_params, noise, source)
    total = min(config.likelihood.num_examples or len(source), len(source))
    compiling("the likelihoods of the classes")
    with kept_in(place, "classification", identity, total=total, doing="classifying") as kept:
        found = class_likelihoods(experiment, state.ema_params, source, noise=noise, kept=kept)
    counts, report = _judged(experiment, source, found, noise)
    report |= {**provenance(state, command), **average, "identity": digest(identity)}
    keep_earlier(place, "classify", report["identity"])
    columns = {name: column for name, column in found._asdict().items() if column is not None and name != "seconds"}
    atomic_savez(place / "classification.npz", **columns)
    confusion(counts, place / "confusion.png")
    atomic_write_json(place / "classification.json", report)
    discard(partial_file(place, "classification", identity))
    for each in quantities_of("classification.json", report):
        log.info("%s.", each.line)
    summarize(workdir, place)


def _judged(
    experiment: Experiment, source: Source, found: ClassLikelihoods, noise: BinNoise
) -> tuple[np.ndarray, dict[str, Any]]:
    """The confusion matrix, and the report about the examples that have a class and were solved."""
    settings, good = experiment.settings.likelihood, _good(found)
    labels = found.labels[good]
    counts = confusion_matrix(found.nats[good], labels)
    data = data_protocol(experiment, noise, len(found.labels), classes="each class")
    report: dict[str, Any] = {
        **verdict(found.nats[good], labels)._asdict(),
        "protocol": f"{flow_protocol(settings)}, {data}",
        "num_examples": len(labels),
        "num_failed": int((~found.success).sum()),
        "num_unlabeled": int((found.labels < 0).sum()),
        "num_classes": experiment.num_classes,
    }
    if experiment.quantization.num_grey_levels is not None:
        bits = found.bits_per_dim[good][np.arange(len(labels)), labels]
        report["bits_per_dim"], report["std_error"] = mean_and_std_error(bits)
    if found.bound_nats is not None:
        of_bound = verdict(-found.bound_nats[good], labels)._asdict()
        report["bound"] = {**of_bound, "num_times": settings.bound_times}
    images = source.gather(np.flatnonzero(good))
    if (other := discriminative_scores(source.info, images)) is not None:
        report["discriminative"] = {"name": other[0], **verdict(other[1], labels)._asdict()}
    evals = float(found.num_evals.mean())
    return counts, report | {"confusion": counts.tolist(), "num_evals_mean": evals, "seconds": found.seconds}


def _good(found: ClassLikelihoods) -> np.ndarray:
    """Whether an example has a class and was solved in every class.

    Raises:
        UserError: If none is so.
    """
    failed, unlabeled = int((~found.success).sum()), int((found.labels < 0).sum())
    good = found.success & (found.labels >= 0)
    count = len(good)
    if not good.any():
        raise UserError(
            f"Of {count} {plural(count, 'example')}, {unlabeled} have no class and {failed} could not be measured, so "
            "that none is left to judge by; expected labels from 0 on and finite scores. Raise "
            "config.likelihood.tolerance, or set config.likelihood.num_steps=100."
        )
    if failed or unlabeled:
        log.warning(
            "Of %d examples, %d have no class and %d could not be measured; these are left out.",
            *(count, unlabeled, failed),
        )
    return good
