"""The interface between libraries of networks and the core: modules as networks of :mod:`score_sde.typing`."""

from score_sde.models.adapters.linen import LinenClassifier, LinenDequantizer, LinenNetwork

__all__ = ["LinenClassifier", "LinenDequantizer", "LinenNetwork"]
