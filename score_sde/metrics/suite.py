"""All metrics of a set of samples, each with its error, its interval and its protocol."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from score_sde.errors import UserError, unknown
from score_sde.metrics.checks import finite_rows
from score_sde.metrics.inception_score import inception_score
from score_sde.metrics.intervals import Estimate, extrapolated_frechet, frechet_interval, normal_interval
from score_sde.metrics.kernel import kernel_distance
from score_sde.metrics.manifold import density_coverage, precision_recall
from score_sde.metrics.pixels import energy_distance, sliced_wasserstein
from score_sde.metrics.protocol import MetricProtocol, MetricResult
from score_sde.metrics.reference import NOT_STATED, ReferenceStatistics

#: The name of the extractor, and the placeholder of its digest, where images are compared directly.
PIXELS = "pixels"

# The quantities that metrics estimate.
_TO_REFERENCE = "the distance of infinitely many samples to this reference"
_OF_BOTH = "the distance of the two distributions"
_OF_SETS = "the mean over sets of as many samples, with this reference"


@dataclasses.dataclass(frozen=True)
class _Inputs:
    features: np.ndarray
    logits: np.ndarray | None
    reference: ReferenceStatistics
    protocol: MetricProtocol  # with the metric, its options and the seed to be filled in
    seed: int
    confidence: float
    warnings: tuple[str, ...]

    def subset(self, metric: str) -> np.ndarray:
        """Features of the reference."""
        if self.reference.features_subset is None:
            raise UserError(
                f"{metric} compares single examples, and the reference {self.reference.source} holds moments only; "
                "expected features of some of its examples too; compute the reference again with a subset, or leave "
                "this metric out."
            )
        return self.reference.features_subset

    def result(
        self, name: str, estimate: Estimate, interval_of: str, *, options: dict[str, Any] | None = None, **details: Any
    ) -> MetricResult:
        """A result with the fields common to all."""
        options = options or {}
        protocol = dataclasses.replace(self.protocol, metric=name, options=tuple(sorted(options.items())))
        shared = {"interval_of": interval_of, "confidence": self.confidence, "warnings": list(self.warnings)}
        return MetricResult(
            value=estimate.value,
            std_error=estimate.std_error,
            interval=(estimate.low, estimate.high),
            protocol=protocol,
            details=shared | details,
        )


def measure_features(
    sample_features: np.ndarray,
    sample_logits: np.ndarray | None,
    reference: ReferenceStatistics,
    *,
    extractor: str,
    extractor_sha256: str,
    shape: tuple[int, ...],
    num_levels: int | None,
    metrics: Sequence[str] = ("frechet", "kid", "precision_recall", "inception_score"),
    seed: int = 0,
    sample_seed: int | None = None,
    confidence: float = 0.95,
) -> dict[str, MetricResult]:
    """Measure samples by the features of an extractor against a reference of the same extractor.

    Features are ``(n, d)`` and logits, for the inception score only, ``(n, k)``. Shape and number of levels are a
    sample's before the extractor. The metrics are names in ``METRICS``; ``precision_recall`` and ``density_coverage``
    give two results each, named after their parts. ``seed`` decides the subsets and groups that metrics draw; the
    protocol names ``sample_seed``, by default the same.

    Raises:
        UserError: For unknown metrics, features that are not finite or not the reference's, a reference of another
            extractor, shape or number of levels, and a metric that lacks logits or features of the reference.

    >>> from score_sde.metrics.frechet import moments
    >>> x = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    >>> reference = ReferenceStatistics(moments=moments(x[:200]), features_subset=None, extractor="mine",
    ...     extractor_sha256="ab" * 32, source="toy", split="train", count=200, shape=(2, 2, 1), num_levels=None)
    >>> found = measure_features(x[200:], None, reference, extractor="mine", extractor_sha256="ab" * 32,
    ...     shape=(2, 2, 1), num_levels=None, metrics=("frechet",))["frechet"]
    >>> found.interval[0] < found.value < 1.0, found.details["warnings"]
    (True, [])
    """
    for name in metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    features = finite_rows(sample_features, "sample features")
    known = {"extractor": extractor, "extractor_sha256": extractor_sha256, "shape": shape, "num_levels": num_levels}
    protocol = MetricProtocol(
        metric="",
        num_samples=len(features),
        reference_count=reference.count,
        seed=seed if sample_seed is None else sample_seed,
        reference_sha256=reference.sha256,
        **known,
    )
    warnings = check_reference(reference, num_features=features.shape[1], **known)
    inputs = _Inputs(features, sample_logits, reference, protocol, seed, confidence, tuple(warnings))
    return {result.protocol.metric: result for name in metrics for result in METRICS[name](inputs)}


def measure_pixels(
    samples: np.ndarray,
    reference: ReferenceStatistics,
    *,
    metrics: Sequence[str] = ("sliced_wasserstein", "energy"),
    **options: Any,
) -> dict[str, MetricResult]:
    """Measure samples ``(n, ...)`` without an extractor, against a reference whose extractor is ``PIXELS``.

    All metrics except the inception score are available. Samples and reference must have the same scale.

    The options are shape, number of levels, seeds and confidence of :func:`measure_features`.
    """
    pixels = finite_rows(samples, "samples")
    known = {"extractor": PIXELS, "extractor_sha256": PIXELS, "metrics": metrics}
    return measure_features(pixels, None, reference, **known, **options)


def check_reference(
    reference: ReferenceStatistics,
    *,
    extractor: str,
    extractor_sha256: str,
    num_features: int,
    shape: tuple[int, ...],
    num_levels: int | None,
) -> list[str]:
    """Refuse a reference made differently from the features of samples, and name the facts that its file lacks.

    Raises:
        UserError: With the differences.
    """
    foreign = NOT_STATED in (extractor_sha256, reference.extractor_sha256)
    pairs = {
        "extractor": (extractor, reference.extractor),
        "SHA-256 of the extractor's weights": (extractor_sha256, reference.extractor_sha256),
        "number of features": (num_features, reference.moments.mean.size),
        "shape": (shape, reference.shape),
        "number of levels": (num_levels, reference.num_levels),
    }
    unlike = [
        f"the {name} is {ours} of the samples and {theirs} of the reference"
        for name, (ours, theirs) in pairs.items()
        if ours != theirs and not (foreign and (ours == NOT_STATED or theirs in (NOT_STATED, None)))
    ]
    if unlike:
        raise UserError(
            f"The reference statistics of {reference.source} ({reference.split}) are of another protocol: "
            f"{'; '.join(unlike)}. Expected the same; compute them with --mode=stats for this configuration."
        )
    weights = [f"Whether the reference was made with the weights of {extractor} is {NOT_STATED}."]
    return weights * foreign + [f"The shape of the reference's examples is {NOT_STATED}."] * (reference.shape is None)


def _few_samples(inputs: _Inputs) -> list[str]:
    """The warnings, with one more if the covariance of the samples is singular or nearly so."""
    n, d = inputs.features.shape
    if n > 2 * d:
        return list(inputs.warnings)
    if n > d:
        few = (
            f"{n} samples are at most twice the {d} dimensions: the bias of the Fréchet distance is large, not all of "
            "it is taken off, and the interval holds the truth less often than it says; draw more samples."
        )
    else:
        few = (
            f"{n} samples have a singular covariance in {d} dimensions: the Fréchet distance is far too large and its "
            "interval not reliable; draw more samples, and read frechet_infinity beside it."
        )
    return [*inputs.warnings, few]


def _frechet(inputs: _Inputs) -> Iterator[MetricResult]:
    found = frechet_interval(inputs.features, inputs.reference.moments, confidence=inputs.confidence, seed=inputs.seed)
    estimate = Estimate(found.distance, found.std_error, found.low, found.high)
    more = {"bias": found.bias, "corrected": found.corrected, "warnings": _few_samples(inputs)}
    yield inputs.result("frechet", estimate, _TO_REFERENCE, **more)


def _frechet_infinity(inputs: _Inputs) -> Iterator[MetricResult]:
    found = extrapolated_frechet(inputs.features, inputs.reference.moments, seed=inputs.seed)
    estimate = Estimate(found.value, found.std_error, *normal_interval(found.value, found.std_error, inputs.confidence))
    more = {"slope": found.slope, "sizes": list(found.sizes), "distances": list(found.distances)}
    yield inputs.result("frechet_infinity", estimate, _TO_REFERENCE, **more, warnings=_few_samples(inputs))


def _kid(inputs: _Inputs) -> Iterator[MetricResult]:
    y = inputs.subset("kid")
    size = min(1000, len(inputs.features), len(y))
    found = kernel_distance(inputs.features, y, subset_size=size, seed=inputs.seed, confidence=inputs.confidence)
    estimate = Estimate(found.value, found.std_error_samples, found.low, found.high)
    more = {name: getattr(found, name) for name in ("subset_mean", "subset_std", "num_subsets", "subset_size")}
    more = {"std_error_both_sides": found.std_error} | more
    yield inputs.result("kid", estimate, _OF_BOTH, options={"degree": 3, "reference_features": len(y)}, **more)


def _on_manifolds(measure: Callable[..., Any], k: int) -> Callable[[_Inputs], Iterator[MetricResult]]:
    """Both results of a measure by balls around examples that reach to their k-th neighbors."""

    def measured(inputs: _Inputs) -> Iterator[MetricResult]:
        y = inputs.subset(measure.__name__)
        found = measure(inputs.features, y, k=k, confidence=inputs.confidence, seed=inputs.seed)
        for name, estimate in found._asdict().items():
            yield inputs.result(name, estimate, _OF_SETS, options={"k": k, "reference_features": len(y)})

    return measured


def _inception_score(inputs: _Inputs) -> Iterator[MetricResult]:
    if inputs.logits is None or len(inputs.logits) != len(inputs.features):
        found = "none" if inputs.logits is None else f"those of {len(inputs.logits)}"
        raise UserError(
            f"inception_score needs the logits of all {len(inputs.features)} samples, and {found} were given; use an "
            "extractor that classifies, or leave this metric out."
        )
    score = inception_score(inputs.logits, confidence=inputs.confidence)
    estimate = Estimate(score.mean, score.std_error, score.low, score.high)
    # The score has no reference, so results with different ones may be compared.
    protocol = dataclasses.replace(inputs.protocol, reference_count=None, reference_sha256=None)
    alone = dataclasses.replace(inputs, protocol=protocol, warnings=())
    what = "the mean over sets of as many samples, in as many splits"
    options = {"num_splits": score.num_splits}
    yield alone.result("inception_score", estimate, what, options=options, std_over_splits=score.std)


def _sliced_wasserstein(inputs: _Inputs) -> Iterator[MetricResult]:
    y = inputs.subset("sliced_wasserstein")
    found = sliced_wasserstein(inputs.features, y, seed=inputs.seed, confidence=inputs.confidence)
    estimate = Estimate(found.value, found.std_error, found.low, found.high)
    what = "the squared distance of infinitely many samples to this reference"
    options = {"num_projections": 512, "projection_seed": inputs.seed, "reference_features": len(y)}
    more = {"corrected": found.corrected, "distance": found.distance}
    yield inputs.result("sliced_wasserstein", estimate, what, options=options, **more)


def _energy(inputs: _Inputs) -> Iterator[MetricResult]:
    y = inputs.subset("energy")
    found = energy_distance(inputs.features, y, confidence=inputs.confidence)
    estimate = Estimate(found.value, found.std_error_samples, found.low, found.high)
    options = {"reference_features": len(y)}
    yield inputs.result("energy", estimate, _OF_BOTH, options=options, std_error_both_sides=found.std_error)


#: The metrics by name.
METRICS: dict[str, Callable[[_Inputs], Iterator[MetricResult]]] = {
    "frechet": _frechet,
    "frechet_infinity": _frechet_infinity,
    "kid": _kid,
    "precision_recall": _on_manifolds(precision_recall, k=3),
    "density_coverage": _on_manifolds(density_coverage, k=5),
    "inception_score": _inception_score,
    "sliced_wasserstein": _sliced_wasserstein,
    "energy": _energy,
}
