"""Samples under conditions: what is known of a sample is held while the rest is drawn."""

from score_sde.conditioning.inpainting import Inpaint

__all__ = ["Inpaint"]
