"""Likelihoods: the probability flow and its divergence, a bound, and dequantization with bits per dimension."""

from score_sde.likelihood.bound import Bound, bound_draw, nll_bound
from score_sde.likelihood.dequantization import (
    DEQUANTIZATIONS,
    Dequantized,
    TruncatedNormalDequantizer,
    UniformDequantizer,
    dequantization_loss,
    dequantize_with,
)
from score_sde.likelihood.flow import Likelihood, bits_per_dim, decoder_term, log_likelihood, transport
from score_sde.likelihood.grid import log_likelihood_on_grid, refined, sample_with_log_density
from score_sde.likelihood.latents import decode, encode, interpolate
from score_sde.likelihood.level_bound import level_bound, log_level_probability
from score_sde.quantization import Quantization
from score_sde.variational import (
    ChainBound,
    ChainModel,
    chain_bound,
    chain_bounds,
    importance_weighted,
    prior_divergence,
)

__all__ = [
    "DEQUANTIZATIONS",
    "Bound",
    "ChainBound",
    "ChainModel",
    "Dequantized",
    "Likelihood",
    "Quantization",
    "TruncatedNormalDequantizer",
    "UniformDequantizer",
    "bits_per_dim",
    "bound_draw",
    "chain_bound",
    "chain_bounds",
    "decode",
    "decoder_term",
    "dequantization_loss",
    "dequantize_with",
    "encode",
    "importance_weighted",
    "interpolate",
    "level_bound",
    "log_level_probability",
    "log_likelihood",
    "log_likelihood_on_grid",
    "nll_bound",
    "prior_divergence",
    "refined",
    "sample_with_log_density",
    "transport",
]
