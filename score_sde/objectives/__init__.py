"""Training objectives: denoising score matching, its training times and weightings."""

from score_sde.objectives.score_matching import score_matching_loss
from score_sde.objectives.times import (
    TIME_SAMPLERS,
    WEIGHTINGS,
    LevelTimes,
    LowDiscrepancyTimes,
    UniformTimes,
    likelihood_weighting,
    variance_weighting,
)

__all__ = [
    "TIME_SAMPLERS",
    "WEIGHTINGS",
    "LevelTimes",
    "LowDiscrepancyTimes",
    "UniformTimes",
    "likelihood_weighting",
    "score_matching_loss",
    "variance_weighting",
]
