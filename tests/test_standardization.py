"""A change of units changes a density by a constant, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.likelihood import log_likelihood
from score_sde.quantization import Quantization
from score_sde.sdes import VP
from score_sde.standardization import Standardization
from tests.analytic import Gaussian

SCALES = {"table": ((4,), [1e-3, 1.0, 40.0, 1e4]), "series": ((5, 2), [0.02, 300.0]), "volume": ((3, 4, 2, 1), [7.0])}


def correlated(shape, scales, seed=0):
    """A Gaussian field over all axes of an event, each column in units of its own: its law, and examples."""
    law = Gaussian.field(shape, correlation=0.6, std=1.0, seed=seed)
    scale = np.broadcast_to(scales, shape).reshape(-1)
    return law, scale, law.sample(8, seed=seed + 1) * scale


def logp(law, scale, x):
    """The log-density of a Gaussian whose coordinates are multiplied by a scale."""
    covariance = law.covariance * np.outer(scale, scale)
    away = x - law.mean * scale
    quadratic = np.einsum("ni,ni->n", away, np.linalg.solve(covariance, away.T).T)
    return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


@pytest.mark.sweep
@pytest.mark.parametrize("case", SCALES)
def test_with_the_exact_score_the_likelihood_is_the_density_in_the_units_of_the_data(case):
    shape, scales = SCALES[case]
    law, scale, x = correlated(shape, scales)
    mean = np.float32(np.asarray(scales) * 0.3)  # neither the mean nor the standard deviation need be those of the law
    standardization = Standardization(mean=mean, std=np.float32(2.0 * np.asarray(scales)))
    of_law = Gaussian(0.5 * law.mean - 0.15, law.basis, 0.25 * law.eigenvalues)  # the law of standardized data
    flat = of_law.score(VP())

    def score(z, t):
        return flat(z.reshape(len(z), -1), t).reshape(z.shape)

    quantization = Quantization(num_grey_levels=None, standardization=standardization)
    events = jnp.asarray(x.reshape(-1, *shape), jnp.float32)
    z = quantization.dequantize(jax.random.key(0), events)
    found = log_likelihood(jax.random.key(1), VP(), score, z, num_probes=None, t0=1e-6)
    truth = logp(law, scale, x)
    np.testing.assert_allclose(found.logp + standardization.log_det(shape), truth, atol=1e-2)
    bits = quantization.bits_per_dim(found.logp, z[0].size)
    np.testing.assert_allclose(bits, -truth / (z[0].size * np.log(2.0)), atol=1e-2)


@pytest.mark.parametrize("c", [0.25, 3.7])
def test_a_column_in_other_units_is_the_same_data_at_another_density(c):
    """Scaled by a power of two even in all bits: a float has the same digits then."""
    events = np.float32(np.random.RandomState(0).standard_normal((8, 3, 2)) * [1.0, 50.0])
    ours = Standardization(mean=np.float32([0.1, 2.0]), std=np.float32([1.3, 40.0]))
    units = np.float32([1.0, c])
    theirs = Standardization(mean=ours.mean * units, std=ours.std * units)
    z, again = ours.forward(events), theirs.forward(events * units)
    np.testing.assert_allclose(again, z, rtol=1e-5, atol=1e-6)
    assert c != 0.25 or np.array_equal(z, again)
    np.testing.assert_allclose(theirs.log_det((3, 2)) - ours.log_det((3, 2)), -3.0 * np.log(c), rtol=1e-6)


def test_samples_are_in_the_units_of_the_data():
    standardization = Standardization(mean=np.float32([5.0, -1e4]), std=np.float32([2.0, 1e3]))
    quantization = Quantization(num_grey_levels=None, standardization=standardization)
    x = np.float32(np.random.RandomState(1).standard_normal((6, 2)) * [2.0, 1e3] + [5.0, -1e4])
    z = quantization.dequantize(jax.random.key(0), jnp.asarray(x))
    np.testing.assert_array_equal(z, quantization.midpoints(jnp.asarray(x)))
    np.testing.assert_allclose(quantization.quantize(z), x, rtol=1e-6, atol=1e-3)


def test_the_determinant_can_be_differentiated():
    slope = jax.grad(lambda std: Standardization(mean=jnp.zeros(2), std=std).log_det((3, 2)))(jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(slope, [-1.5, -0.75], rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.0, 0.0], [1.0, 0.0], "finite numbers above 0"),
        ([0.0, np.nan], [1.0, 1.0], "expected finite numbers"),
        ([0.0], [1.0, 1.0], "one number of each for every column"),
    ],
)
def test_statistics_that_are_none_are_refused(mean, std, words):
    with pytest.raises(UserError, match=words):
        Standardization(mean=np.float32(mean), std=np.float32(std))


def test_data_of_another_number_of_columns_and_gray_levels_are_refused():
    standardization = Standardization(mean=np.zeros(2, np.float32), std=np.ones(2, np.float32))
    with pytest.raises(UserError, match="expected a last axis of 2"):
        standardization.forward(np.zeros((4, 3), np.float32))
    with pytest.raises(UserError, match="17 gray levels and a standardization"):
        Quantization(num_grey_levels=17, standardization=standardization)
