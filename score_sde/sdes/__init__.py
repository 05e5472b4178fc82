"""Linear SDEs: the published ones, and those that a user knows by their coefficients or by their marginals."""

from score_sde.sdes.base import SDE, ReverseSDE
from score_sde.sdes.own import GaussianPath, LinearSDE
from score_sde.sdes.paths import EDM, Cosine, RectifiedFlow, Sigmoid
from score_sde.sdes.standard import VDM, VE, VP, SubVP

__all__ = [
    "EDM",
    "SDE",
    "VDM",
    "VE",
    "VP",
    "Cosine",
    "GaussianPath",
    "LinearSDE",
    "RectifiedFlow",
    "ReverseSDE",
    "Sigmoid",
    "SubVP",
]
