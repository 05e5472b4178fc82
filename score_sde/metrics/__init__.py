"""Distances between a set of samples and a set of data."""

from score_sde.metrics.frechet import Moments, frechet_distance, moments

__all__ = ["Moments", "frechet_distance", "moments"]
