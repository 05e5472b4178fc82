"""Extractors, which map images to features, for distances, and to logits of classes."""

from score_sde.metrics.extractors.base import Extractor, Features
from score_sde.metrics.extractors.registry import EXTRACTORS, FETCHED, ON_POINTS, make_extractor

__all__ = ["EXTRACTORS", "FETCHED", "ON_POINTS", "Extractor", "Features", "make_extractor"]
