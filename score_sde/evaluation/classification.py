"""The class of an example by its likelihood in every class of a class-conditional model: Bayes' rule as a classifier.

With equally likely classes the posterior is ``p(k | x) = p(x | k) / sum_j p(x | j)``. All classes of an example share
its dequantization noise, its probes and its times, so that the differences of their log-likelihoods, on which the
posterior depends alone, have less noise than the log-likelihoods themselves. The random numbers of an example follow
from its index, whatever its batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from score_sde.data import Source, SourceInfo
from score_sde.distributed import gathered, jit
from score_sde.errors import UserError
from score_sde.evaluation.base import Examples, Purpose, mean_and_std_error, root_key
from score_sde.evaluation.likelihood import BinNoise, Program, bits_per_dim, bound_program, combined, flow_program
from score_sde.evaluation.partial import Partial, measured_in_parts
from score_sde.experiment import Experiment
from score_sde.keys import sample_keys
from score_sde.labels import Labeled
from score_sde.metrics.extractors.classifier import ARCHITECTURES, make_classifier
from score_sde.metrics.intervals import wilson_interval
from score_sde.typing import Params


class ClassLikelihoods(NamedTuple):
    """Log-likelihoods of a data set, a row per example and a column per class."""

    labels: np.ndarray  # ``(n,)``, the true classes; -1 for none
    nats: np.ndarray  # ``(n, classes)``
    bits_per_dim: np.ndarray  # ``(n, classes)``; of continuous data, of their density
    num_evals: np.ndarray  # ``(n,)``, in all classes together
    success: np.ndarray  # ``(n,)``, in every class
    probe_std_error: np.ndarray  # ``(n, classes)``, nats
    bound_nats: np.ndarray | None  # ``(n, classes)``, upper bounds on ``-nats``
    bound_std_error: np.ndarray | None
    seconds: float


class Verdict(NamedTuple):
    """The quality of a classifier, from its log-posteriors or from log-likelihoods of equally likely classes."""

    accuracy: float
    accuracy_interval: tuple[float, float]  # 95 %, Wilson's
    cross_entropy: float  # nats, the mean negative log-posterior of the true class
    cross_entropy_std_error: float


def check_classes(experiment: Experiment) -> None:
    """Refuse a network that was trained without labels.

    Raises:
        UserError: If it was.
    """
    if not experiment.num_classes:
        raise UserError(
            "The network was trained without labels (config.conditioning.classes=False) and has one likelihood for all "
            "classes; expected a run that was trained with config.conditioning.classes=True, such as one of "
            "configs/vp/digits_classes.py."
        )


def class_likelihoods(
    experiment: Experiment,
    params: Params,
    source: Source,
    *,
    noise: BinNoise | None = None,
    kept: Partial | None = None,
) -> ClassLikelihoods:
    """The likelihood of every example, or of the first ``likelihood.num_examples``, in every class.

    It follows ``config.likelihood``, and so does the bound with ``likelihood.bound_times`` above 0. The classes of some
    examples are one batch of about ``likelihood.batch_size``. ``noise`` and ``kept`` are as in
    :func:`~score_sde.evaluation.likelihood.dataset_likelihood`.

    Raises:
        UserError: If the network was trained without labels, or the data have none.
    """
    check_classes(experiment)
    settings, noise, kept = experiment.settings.likelihood, noise or BinNoise(), kept or Partial()
    classes = experiment.num_classes
    flow = _in_every_class(flow_program(experiment, noise), classes)
    bound = _in_every_class(bound_program(experiment, noise), classes) if settings.bound_times else None

    def drawn(program: Program, purpose: Purpose, draw: int, batch: Examples) -> Any:
        key = jax.random.fold_in(root_key(experiment, purpose), draw)
        count = len(batch.mask)
        keys = sample_keys(key, batch.number * count, count)
        return gathered(program(params, noise.params, keys, batch.data.data))

    def measure(batch: Examples) -> list[Any]:
        draws = [drawn(flow, Purpose.CLASSES, n, batch) for n in range(settings.num_dequantizations)]
        nats, num_evals, success, error = combined(draws, importance=settings.importance_weighted)
        found = [gathered(batch.data.label), nats, num_evals.sum(axis=1), success.all(axis=1), error]
        if bound is not None:
            bounds = drawn(bound, Purpose.CLASS_BOUNDS, 0, batch)
            found += [bounds.value, bounds.std_error]
        return found

    labels, nats, num_evals, success, error, *bounds = measured_in_parts(
        experiment, source, measure, kept, rows=classes
    )
    bits = bits_per_dim(experiment, nats.reshape(-1)).reshape(nats.shape)
    bound_nats, bound_error = bounds or (None, None)
    return ClassLikelihoods(
        *(labels, nats, bits, num_evals, success.astype(bool), error), bound_nats, bound_error, kept.seconds
    )


def _in_every_class(program: Program, classes: int) -> Program:
    """A program for examples with their own keys, compiled; its results have an axis of classes after the first."""

    def of_example(params: Params, noise_params: Params, key: Any, example: Any) -> Any:
        def of_class(label: Any) -> Any:
            found = program(params, noise_params, key, Labeled(example[None], label[None]))
            return jax.tree.map(lambda part: part[0], found)

        return jax.vmap(of_class)(jnp.arange(classes))

    return jit(jax.vmap(of_example, in_axes=(None, None, 0, 0)))


def verdict(scores: np.ndarray, labels: np.ndarray) -> Verdict:
    """The quality of log-posteriors, or of log-likelihoods, ``(n, classes)``, for examples of the classes ``labels``.

    >>> found = verdict(np.log([[0.5, 0.25], [0.125, 0.375]]), np.array([0, 1]))
    >>> found.accuracy, round(float(np.exp(-found.cross_entropy)), 3)
    (1.0, 0.707)
    """
    scores = np.asarray(scores, np.float64)
    right = int(np.sum(np.argmax(scores, axis=1) == labels))
    own = scores[np.arange(len(labels)), labels] - logsumexp(scores, axis=1)
    return Verdict(right / len(labels), wilson_interval(right, len(labels)), *mean_and_std_error(-own))


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The number of examples by true class (rows) and class of the highest score (columns).

    >>> confusion_matrix(np.array([[2.0, 1.0], [3.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    classes = scores.shape[1]
    counts = np.bincount(labels * classes + np.argmax(scores, axis=1), minlength=classes**2)
    return counts.reshape(classes, classes)


def discriminative_scores(info: SourceInfo, images: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The classifier of a data set that comes with the package, by name, and its logits; None where there is none."""
    own = ARCHITECTURES.get(info.name)
    if own is None or (own.shape, own.num_levels) != (info.shape, info.num_grey_levels):
        return None
    extractor = make_classifier(info.name)
    logits = extractor(images).logits
    assert logits is not None
    return extractor.name, logits
