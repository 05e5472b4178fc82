"""Extractors, which map images to features, for distances, and to logits of classes."""

from score_sde.metrics.extractors.base import Extractor, Features
from score_sde.metrics.extractors.registry import EXTRACTORS, make_extractor

__all__ = ["EXTRACTORS", "Extractor", "Features", "make_extractor"]
