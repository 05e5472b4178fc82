"""Linear SDEs: the published ones, and those that a user knows by their coefficients or by their marginals."""

from score_sde.sdes.base import SDE, ReverseSDE
from score_sde.sdes.own import GaussianPath, LinearSDE
from score_sde.sdes.standard import VDM, VE, VP, SubVP

__all__ = ["SDE", "VDM", "VE", "VP", "GaussianPath", "LinearSDE", "ReverseSDE", "SubVP"]
