"""Variational bounds of latent variable models, and their training losses: autoencoders and chains."""

from score_sde.variational.ancestral_bound import ChainBound, ChainModel, chain_bound, chain_bounds, prior_divergence
from score_sde.variational.autoencoder import (
    LatentVariableModel,
    elbo,
    importance_bound,
    importance_weighted,
    sample_from_prior,
    vae_loss,
)
from score_sde.variational.gaussian import Gaussian
from score_sde.variational.learned_bound import learned_variance_bound, vlb_loss
from score_sde.variational.learned_variances import (
    LearnedReversal,
    NoiseAndFraction,
    PredictFn,
    Reversal,
    first_half,
    make_predict_fn,
    with_fraction,
    with_variances,
)
from score_sde.variational.paths import forward_path, hierarchical_elbo, path_log_weight

__all__ = [
    "ChainBound",
    "ChainModel",
    "Gaussian",
    "LatentVariableModel",
    "LearnedReversal",
    "NoiseAndFraction",
    "PredictFn",
    "Reversal",
    "chain_bound",
    "chain_bounds",
    "elbo",
    "first_half",
    "forward_path",
    "hierarchical_elbo",
    "importance_bound",
    "importance_weighted",
    "learned_variance_bound",
    "make_predict_fn",
    "path_log_weight",
    "prior_divergence",
    "sample_from_prior",
    "vae_loss",
    "vlb_loss",
    "with_fraction",
    "with_variances",
]
