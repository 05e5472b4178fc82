"""NCSN's and DDPM's losses are the loss of this package on their chains, and tend to those of the SDEs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import chains
from score_sde.objectives import LevelTimes, UniformTimes, denoising_score_matching, score_matching_loss
from score_sde.objectives import variance_weighting as by_variance
from score_sde.parameterization import NoisePrediction, ScorePrediction
from score_sde.sdes import VE, VP
from tests.laws import float64

KEY = jax.random.key(7)
DATA = np.random.RandomState(0).randn(64, 3)


class Wave:
    """A network without training: what it does to data and condition is all there is to know."""

    def init(self, key, shape):
        return {"w": jnp.asarray(np.random.RandomState(1).randn(3, 3))}

    def apply(self, params, x, condition, *, key=None):
        return jnp.tanh(x @ params["w"] + 0.3 * condition[:, None])


NETWORK = Wave()
PARAMS = NETWORK.init(None, None)


def draws(process, times, x):
    """The times and the noise that the loss draws from its key."""
    time_key, noise_key, _ = jax.random.split(KEY, 3)
    t = times.sample(time_key, len(x)).t
    return np.asarray(t), np.asarray(process.perturb(noise_key, x, t)[1])


def loss(process, parameterization, times, x, **options):
    loss_fn = score_matching_loss(
        process, NETWORK, parameterization, times=times, weighting=by_variance, reduce_mean=False, **options
    )
    return np.asarray(loss_fn(PARAMS, KEY, x, train=False))


@pytest.mark.parametrize("conditional", [True, False], ids=["ncsn", "ncsnv2"])
def test_the_ve_chain_has_the_loss_of_ncsn(conditional):
    """Song & Ermon 2019, eqs. 5 and 6 with lambda = sigma^2, as NCSN counts: labels into descending sigmas."""
    levels, x = 10, jnp.asarray(DATA, jnp.float32)
    chain = chains.NCSN(sigmas=chains.geometric_sigmas(levels, 0.01, 1.0))
    times = LevelTimes(t0=0.0, num_levels=levels)
    parameterization = ScorePrediction(
        scale_by_sigma=not conditional, condition_on="descending_level", num_scales=levels
    )
    t, noise = draws(chain, times, x)
    labels = np.round((1 - t) * (levels - 1)).astype(int)
    assert set(labels) == set(range(levels))
    sigmas = np.geomspace(1.0, 0.01, levels)[labels].astype(np.float32)[:, None]

    def score(y):
        output = NETWORK.apply(PARAMS, y, jnp.asarray(labels, jnp.float32))
        return output if conditional else output / sigmas  # technique 3 of NCSNv2

    target = -(sigmas * noise) / sigmas**2  # -(x~ - x) / sigma^2
    ncsn = 0.5 * np.sum((np.asarray(score(x + sigmas * noise)) - target) ** 2, axis=1) * sigmas[:, 0] ** 2
    np.testing.assert_allclose(loss(chain, parameterization, times, x), ncsn, rtol=2e-4)
    one_level = denoising_score_matching(score, x, jnp.asarray(noise), jnp.asarray(sigmas)) * sigmas[:, 0] ** 2
    np.testing.assert_allclose(one_level, ncsn, rtol=1e-4)


def test_the_vp_chain_has_the_simple_loss_of_ddpm():
    """Ho et al. 2020, eq. 14, with their float64 table of products and steps counted from 0."""
    levels, x = 1000, jnp.asarray(DATA, jnp.float32)
    chain = chains.DDPM(betas=chains.linear_betas(levels))
    times = LevelTimes(t0=1 / levels, num_levels=levels)
    t, noise = draws(chain, times, x)
    steps = np.round(t * levels - 1).astype(int)
    alphas = np.cumprod(1.0 - np.linspace(1e-4, 0.02, levels))[steps][:, None]
    noisy = np.sqrt(alphas) * DATA + np.sqrt(1.0 - alphas) * noise
    predicted = NETWORK.apply(PARAMS, jnp.asarray(noisy, jnp.float32), jnp.asarray(steps, jnp.float32))
    simple = np.sum((noise - np.asarray(predicted)) ** 2, axis=1)
    parameterization = NoisePrediction(condition_on="level", num_scales=levels)
    np.testing.assert_allclose(2 * loss(chain, parameterization, times, x), simple, rtol=2e-3)


def gaps(sde, parameterization, make_times):
    """Mean distance of the chain's losses from the SDE's, example by example on one noise, as levels double."""
    with float64():
        x = jnp.asarray(DATA)
        return [
            np.abs(
                loss(sde.discretize(n), parameterization, make_times(n), x)
                - loss(sde, parameterization, make_times(n), x)
            ).mean()
            for n in (500, 1000, 2000, 4000, 8000)
        ]


CHOICES = {
    "ncsn to ve": (VE(sigma_max=10.0), ScorePrediction(condition_on="log_noise")),
    "ddpm to vp": (VP(), NoisePrediction(condition_on="log_noise")),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", CHOICES)
def test_their_losses_tend_to_those_of_the_sdes_on_the_same_noise(name):
    """Any uniform time belongs to the nearest level: the gap is of order 1 / levels."""
    found = gaps(*CHOICES[name], lambda n: UniformTimes(t0=0.05))
    order = np.polyfit(np.log([1, 2, 4, 8, 16]), -np.log(found), 1)[0]
    assert 0.85 < order < 1.15, (order, found)
    assert found[-1] < 2e-3


@pytest.mark.slow
def test_at_its_levels_ncsn_is_ve_and_ddpm_tends_to_vp():
    at_levels = gaps(*CHOICES["ncsn to ve"], lambda n: LevelTimes(t0=0.0, num_levels=n))
    assert max(at_levels) < 1e-9
    at_levels = gaps(*CHOICES["ddpm to vp"], lambda n: LevelTimes(t0=1 / n, num_levels=n))
    assert np.polyfit(np.log([1, 2, 4, 8, 16]), -np.log(at_levels), 1)[0] > 0.85, at_levels
