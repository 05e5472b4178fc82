"""Extractors: from images to features, between which distances are measured, and to logits of classes."""

from score_sde.metrics.extractors.base import Extractor, Features
from score_sde.metrics.extractors.registry import EXTRACTORS, make_extractor

__all__ = ["EXTRACTORS", "Extractor", "Features", "make_extractor"]
