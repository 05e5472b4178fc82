"""Conditional samples: known values of a sample are held while the rest is drawn."""

from score_sde.conditioning.inpainting import Inpaint

__all__ = ["Inpaint"]
