"""Likelihoods: the probability flow, its divergence, and dequantisation with bits per dimension."""

from score_sde.likelihood.dequantization import Quantization
from score_sde.likelihood.flow import Likelihood, log_likelihood, transport

__all__ = ["Likelihood", "Quantization", "log_likelihood", "transport"]
