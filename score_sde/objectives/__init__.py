"""Training objectives: denoising score matching, its training times and weightings."""

from score_sde.objectives.score_matching import (
    LevelLosses,
    NoiseLevels,
    loss_by_noise_level,
    part_of,
    score_matching_loss,
)
from score_sde.objectives.times import (
    TIME_SAMPLERS,
    WEIGHTINGS,
    ImportanceTimes,
    LevelTimes,
    LowDiscrepancyTimes,
    UniformTimes,
    likelihood_weighting,
    variance_weighting,
)

__all__ = [
    "TIME_SAMPLERS",
    "WEIGHTINGS",
    "ImportanceTimes",
    "LevelLosses",
    "LevelTimes",
    "LowDiscrepancyTimes",
    "NoiseLevels",
    "UniformTimes",
    "likelihood_weighting",
    "loss_by_noise_level",
    "part_of",
    "score_matching_loss",
    "variance_weighting",
]
