"""Latent codes: encoding follows the exact flow, decoding inverts it, interpolation stays where the prior is."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.likelihood import decode, encode, interpolate
from tests.analytic import SDES, Gaussian

DENSITY = Gaussian.correlated(4)


@pytest.mark.sweep
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_codes_are_those_of_the_exact_flow_and_decode_to_the_data(sde):
    x = jnp.asarray(DENSITY.sample(8), jnp.float32)
    code = encode(sde, DENSITY.score(sde), x, t_end=1e-3)
    back = decode(sde, DENSITY.score(sde), code.y, t_end=1e-3)
    exact = DENSITY.flow(sde, x, 1e-3, 1.0)
    assert bool(code.success.all() & back.success.all()) and int(code.num_evals.min()) > 1
    np.testing.assert_allclose(code.y, exact, atol=2e-3 * float(sde.prior_std))
    np.testing.assert_allclose(back.y, x, atol=2e-3)


def test_interpolation_meets_both_ends_and_keeps_the_length_between():
    start, end = (jnp.asarray(np.random.RandomState(i).randn(3, 20, 20, 1), jnp.float32) for i in (0, 1))
    path = interpolate(start, end, 5)
    np.testing.assert_allclose(path[0], start, atol=1e-5)
    np.testing.assert_allclose(path[-1], end, atol=1e-5)
    lengths = np.linalg.norm(np.asarray(path).reshape(5, 3, -1), axis=2)
    assert lengths.min() > 0.97 * min(lengths[0].min(), lengths[-1].min())  # a line dips to 0.71
    angles = [np.sum(np.asarray(path[i] * path[i + 1]).reshape(3, -1), axis=1) for i in range(4)]
    np.testing.assert_allclose(angles, np.broadcast_to(angles[0], (4, 3)), rtol=0.1)  # in equal turns


def test_interpolation_between_equal_codes_stands_still():
    code = jnp.ones((2, 5))
    np.testing.assert_allclose(interpolate(code, code, 3), np.ones((3, 2, 5)), rtol=1e-6)
