"""Conditional samples: guided scores, posterior scores of observations, and known values that are held."""

from score_sde.conditioning import operators
from score_sde.conditioning.daps import DAPS
from score_sde.conditioning.guidance import autoguidance, classifier_free, classifier_guidance, halves
from score_sde.conditioning.inpainting import Inpaint
from score_sde.conditioning.operators import LinearOperator
from score_sde.conditioning.posterior import posterior_score
from score_sde.conditioning.repaint import RePaint
from score_sde.conditioning.twisted import Particles, twisted_diffusion

__all__ = [
    "DAPS",
    "Inpaint",
    "LinearOperator",
    "Particles",
    "RePaint",
    "autoguidance",
    "classifier_free",
    "classifier_guidance",
    "halves",
    "operators",
    "posterior_score",
    "twisted_diffusion",
]
