"""Features of samples and of data, batch by batch, and the metrics between them."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from score_sde.data import Source, SourceInfo, fingerprint
from score_sde.data.identity import statistics_to_json
from score_sde.errors import UserError, refuse
from score_sde.evaluation.base import Progress, mean_and_std_error, sample_seed
from score_sde.evaluation.partial import Partial
from score_sde.evaluation.samples import compiled_sampler, draw_in_parts
from score_sde.experiment import Experiment
from score_sde.fields import DEFAULTS, Settings
from score_sde.fields.kinds import is_outside
from score_sde.metrics import (
    PIXELS,
    MetricResult,
    MomentsAccumulator,
    ReferenceStatistics,
    check_reference,
    measure_features,
)
from score_sde.metrics.extractors import ON_POINTS, Extractor, Features, make_extractor
from score_sde.outside.parts import option_problems
from score_sde.standardization import Standardization
from score_sde.typing import Params

IMAGE_METRICS = ("frechet", "kid", "precision_recall")
POINT_METRICS = ("sliced_wasserstein", "energy")
MOMENTS_ONLY = ("frechet", "frechet_infinity", "inception_score")  # the others compare single examples
_BATCH = 512  # examples read at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points(Extractor):
    """The extractor for continuous data: each example is its own feature vector, standardized as for the model.

    >>> Points(num_features=2)(np.ones((3, 2))).features.shape
    (3, 2)
    """

    name: str = PIXELS
    sha256: str = PIXELS
    num_classes: int | None = None
    standardization: Standardization | None = None

    def __call__(self, images: np.ndarray) -> Features:
        """The values of every example, in single precision."""
        values = np.asarray(images, np.float32)
        if self.standardization is not None:
            values = np.asarray(self.standardization.forward(values))
        return Features(values.reshape(len(images), -1), None)


class SampleFeatures(NamedTuple):
    """The features of samples and the cost of the samples."""

    features: np.ndarray  # ``(n, d)``
    logits: np.ndarray | None  # ``(n, k)``
    num_evals: float  # of the score, mean over the samples
    seconds: float


def extractor_of(config: Settings, info: SourceInfo, standardization: Standardization | None = None) -> Extractor:
    """The configured extractor for data of this shape; continuous data are their own features.

    Standardized data are compared in the standardized scale, in which all columns count alike.

    Raises:
        UserError: For a name that is unknown or does not suit the data.
    """
    settings = config.evaluation
    own = is_outside(settings.extractor)
    refuse(option_problems(config, "evaluation"))
    if own or info.num_grey_levels is not None:
        weights = Path(settings.weights) if settings.weights else None
        data = {"source": info.name, "shape": info.shape, "num_levels": info.num_grey_levels}
        return make_extractor(settings.extractor, **data, weights=weights, options=settings.options)
    if settings.extractor not in ON_POINTS:
        raise UserError(
            f"config.evaluation.extractor is {settings.extractor}, and {info.name} are points, not images; expected "
            "auto, which compares them as they are."
        )
    if settings.weights:
        raise UserError(
            f"config.evaluation.weights is {settings.weights}, and {info.name} are points, which no extractor sees; "
            "expected ''."
        )
    statistics = json.dumps(statistics_to_json(standardization))
    known = PIXELS if standardization is None else hashlib.sha256(statistics.encode()).hexdigest()
    return Points(num_features=int(np.prod(info.shape)), sha256=known, standardization=standardization)


def metrics_of(config: Settings, info: SourceInfo) -> tuple[str, ...]:
    """The configured metrics, or the usual ones of images and of points."""
    usual = POINT_METRICS if info.num_grey_levels is None else IMAGE_METRICS
    return tuple(config.evaluation.metrics) or usual


def data_statistics(
    source: Source,
    extractor: Extractor,
    *,
    split: str,
    limit: int = 0,
    keep_features: int = DEFAULTS.evaluation.keep_features,
    progress: Progress = lambda n: None,
) -> tuple[ReferenceStatistics, str]:
    """Statistics of the stored examples, neither mirrored nor dequantized, each exactly once.

    The first ``limit`` examples are read (0 for all). The features of ``keep_features`` randomly drawn ones are kept
    beside the moments.

    The second result is the SHA-256 of the examples in order.
    """
    total = min(limit or len(source), len(source))
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(0).choice(total, min(keep_features, total), replace=False)] = True
    accumulator, digest, kept = MomentsAccumulator(), hashlib.sha256(), []
    for first in range(0, total, _BATCH):
        rows = np.arange(first, min(first + _BATCH, total))
        examples = np.ascontiguousarray(source.gather(rows))
        digest.update(examples.data)
        features = extractor(examples).features
        accumulator.add(features)
        kept.append(features[chosen[rows]])
        progress(len(rows))
    statistics = ReferenceStatistics(
        moments=accumulator.moments(),
        features_subset=np.concatenate(kept) if chosen.any() else None,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        source=source.info.name,
        split=split,
        count=total,
        shape=source.info.shape,
        num_levels=source.info.num_grey_levels,
        contents=fingerprint(source),
    )
    return statistics, digest.hexdigest()


class SampleEvaluator:
    """Features of a model's samples, by the configured sampler, which is compiled once for all checkpoints."""

    def __init__(self, experiment: Experiment, extractor: Extractor) -> None:
        """Fix the run and the extractor."""
        self._experiment, self.extractor = experiment, extractor
        self._total: int = experiment.settings.evaluation.num_samples
        self._draw = compiled_sampler(experiment)

    def __call__(self, params: Params, *, kept: Partial | None = None) -> SampleFeatures:
        """The features of ``evaluation.num_samples`` samples, rounded to gray levels as a user gets them.

        Sample ``i`` equals sample ``i`` of ``--mode=sample``.

        An interrupted measurement resumes from ``kept`` bit for bit; it is in memory only unless given.

        Raises:
            UserError: If a sample is not finite, or an adaptive solver gave one up.
        """
        kept = draw_in_parts(
            self._experiment,
            lambda *where: self._draw(params, *where),
            self._total,
            finish=self._features,
            kept=kept or Partial(),
        )
        features, logits, num_evals = (np.array(column) for column in kept.columns())
        found = logits if self.extractor.num_classes is not None else None
        return SampleFeatures(features, found, float(num_evals.mean()), kept.seconds)

    def measure(
        self, found: SampleFeatures, reference: ReferenceStatistics, metrics: Sequence[str]
    ) -> dict[str, MetricResult]:
        """The metrics of samples against a reference."""
        return measure_features(
            found.features,
            found.logits,
            reference,
            extractor=self.extractor.name,
            extractor_sha256=self.extractor.sha256,
            shape=self._experiment.event_shape,
            num_levels=self._experiment.quantization.num_grey_levels,
            metrics=metrics,
            sample_seed=sample_seed(self._experiment.settings),
        )

    def _features(self, x: np.ndarray) -> list[np.ndarray]:
        found = self.extractor(self._experiment.quantization.quantize(x))
        # The file of partial results holds arrays only.
        none = np.zeros((len(x), 0), np.float32)
        return [found.features, none if found.logits is None else found.logits]


def class_accuracy(found: SampleFeatures, labels: np.ndarray) -> tuple[float, float]:
    """The share of samples that a classifier takes for their class, and its standard error.

    >>> class_accuracy(SampleFeatures(np.zeros((4, 1)), np.eye(4), 1.0, 1.0), np.array([0, 1, 2, 0]))
    (0.75, 0.25)
    """
    assert found.logits is not None
    return mean_and_std_error(np.argmax(found.logits, axis=1) == labels)


def check_protocol(
    extractor: Extractor, reference: ReferenceStatistics, metrics: Sequence[str], info: SourceInfo
) -> None:
    """Refuse, before hours of sampling, a reference of another protocol or without the features that a metric needs."""
    check_reference(
        reference,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        num_features=extractor.num_features,
        shape=info.shape,
        num_levels=info.num_grey_levels,
    )
    if reference.features_subset is None and (lacking := [name for name in metrics if name not in MOMENTS_ONLY]):
        raise UserError(
            f"{', '.join(lacking)} of config.evaluation.metrics compare single examples, and the reference statistics "
            f"of {reference.source} hold moments only; set config.evaluation.metrics=('frechet',), or compute "
            "statistics with --mode=stats and config.evaluation.keep_features above 0."
        )
    if "inception_score" in metrics and extractor.num_classes is None:
        advice = "leave it out" if info.num_grey_levels is None else "leave it out, or choose another extractor"
        raise UserError(
            f"inception_score of config.evaluation.metrics needs classes, and the extractor {extractor.name} has none; "
            f"{advice}."
        )
