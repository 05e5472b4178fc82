"""Likelihoods: the probability flow and its divergence, a bound, and dequantisation with bits per dimension."""

from score_sde.likelihood.bound import Bound, nll_bound
from score_sde.likelihood.dequantization import Quantization
from score_sde.likelihood.flow import Likelihood, log_likelihood, transport
from score_sde.likelihood.latents import decode, encode, interpolate

__all__ = [
    "Bound",
    "Likelihood",
    "Quantization",
    "decode",
    "encode",
    "interpolate",
    "log_likelihood",
    "nll_bound",
    "transport",
]
