"""Likelihood and bound of a data set: the bound lies above, by no more than its error, where the score is exact."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from score_sde.cli import load_config
from score_sde.data import SourceInfo
from score_sde.data.base import ArraySource
from score_sde.errors import UserError
from score_sde.evaluation.likelihood import dataset_bound, dataset_likelihood
from score_sde.modes.workdir import build_experiment
from score_sde.sdes import VP


class UniformNetwork:
    """The exact noise prediction for data uniform on [-1, 1]: all levels are equally likely."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        m, s = (c.reshape(-1, 1, 1, 1) for c in VP().marginal(condition / 999.0))
        high, low = (x + m) / s, (x - m) / s
        # Minus s times the score of the uniform density on [-m, m] that is smoothed by s.
        near = jnp.maximum(norm.cdf(high) - norm.cdf(low), 1e-30)
        return -(norm.pdf(high) - norm.pdf(low)) / near


@pytest.fixture
def experiment():
    overrides = ["likelihood.batch_size=40", "likelihood.bound_times=512", "likelihood.t_min=1e-3"]
    config = load_config(None, [*(f"--config.{o}" for o in overrides), "--config.data.shape=(8, 8, 1)"])
    return dataclasses.replace(build_experiment(config), network=UniformNetwork())


@pytest.mark.slow
def test_the_bound_lies_above_the_likelihood_by_little_where_the_score_is_exact(experiment):
    """Uniform data over 256 levels have 8 bits per dimension, whatever the images; the last batch of 70 is padded."""
    levels = np.random.RandomState(0).randint(256, size=(70, 8, 8, 1)).astype(np.uint8)
    source = ArraySource(SourceInfo("uniform", (8, 8, 1), 256, None), levels)
    flow, bound = dataset_likelihood(experiment, {}, source), dataset_bound(experiment, {}, source)
    assert len(flow.bits_per_dim) == len(bound.bits_per_dim) == 70
    error = bound.std_error / (64 * np.log(2.0))
    gap = bound.bits_per_dim - flow.bits_per_dim
    uncertainty = np.sqrt(np.mean(error**2) / 70)
    assert abs(flow.bits_per_dim.mean() - 8.0) < 0.02  # the edges are smoothed at t_min
    assert abs(bound.bits_per_dim.mean() - 8.0) < 4 * uncertainty + 0.005
    assert -4 * uncertainty < gap.mean() < 4 * uncertainty + 0.02
    assert 0.7 < gap.std() / np.sqrt(np.mean(error**2)) < 1.4  # the error bar is honest


def test_an_odd_number_of_times_is_refused():
    with pytest.raises(UserError, match="bound_times is 3; expected an even integer"):
        build_experiment(load_config(None, ["--config.likelihood.bound_times=3", "--config.data.shape=(8, 8, 1)"]))
