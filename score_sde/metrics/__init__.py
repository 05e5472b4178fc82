"""Distances between samples and data: metrics with their errors, intervals and protocols.

:func:`measure_features` measures the features of an extractor and :func:`measure_pixels` the images themselves; their
building blocks take plain NumPy arrays. Everything is computed on the host in double precision.
"""

from score_sde.metrics.frechet import FrechetTarget, Moments, MomentsAccumulator, frechet_distance, moments
from score_sde.metrics.inception_score import InceptionScore, inception_score
from score_sde.metrics.intervals import (
    Estimate,
    Extrapolation,
    FrechetEstimate,
    bootstrap_interval,
    extrapolated_frechet,
    frechet_interval,
)
from score_sde.metrics.kernel import KernelDistance, kernel_distance
from score_sde.metrics.manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from score_sde.metrics.pixels import EnergyDistance, SlicedWasserstein, energy_distance, sliced_wasserstein
from score_sde.metrics.protocol import Comparison, MetricProtocol, MetricResult, compare
from score_sde.metrics.reference import NOT_STATED, ReferenceStatistics, read_statistics, write_statistics
from score_sde.metrics.suite import METRICS, PIXELS, check_reference, measure_features, measure_pixels

__all__ = [
    "METRICS",
    "NOT_STATED",
    "PIXELS",
    "Comparison",
    "DensityCoverage",
    "EnergyDistance",
    "Estimate",
    "Extrapolation",
    "FrechetEstimate",
    "FrechetTarget",
    "InceptionScore",
    "KernelDistance",
    "MetricProtocol",
    "MetricResult",
    "Moments",
    "MomentsAccumulator",
    "PrecisionRecall",
    "ReferenceStatistics",
    "SlicedWasserstein",
    "bootstrap_interval",
    "check_reference",
    "compare",
    "density_coverage",
    "energy_distance",
    "extrapolated_frechet",
    "frechet_distance",
    "frechet_interval",
    "inception_score",
    "kernel_distance",
    "measure_features",
    "measure_pixels",
    "moments",
    "precision_recall",
    "read_statistics",
    "sliced_wasserstein",
    "write_statistics",
]
