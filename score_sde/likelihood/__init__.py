"""Likelihoods: the probability flow, its divergence, and dequantisation with bits per dimension."""

from score_sde.likelihood.dequantization import Quantization
from score_sde.likelihood.flow import Likelihood, log_likelihood, transport
from score_sde.likelihood.latents import decode, encode, interpolate

__all__ = ["Likelihood", "Quantization", "decode", "encode", "interpolate", "log_likelihood", "transport"]
