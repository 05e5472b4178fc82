"""Chains: marginals follow from their own steps, their limits are the SDEs, and NCSNv2's choices are reproduced."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import chains, sampling
from score_sde.errors import UserError
from score_sde.sdes import VE, VP, SubVP
from score_sde.solvers import DDIM, Ancestral, EulerMaruyama, UniPC, noise_scale_of
from tests.analytic import Gaussian
from tests.laws import float64

N = 200
DDPM = {name: chains.DDPM(betas=betas(N, 5e-4, 0.1)) for name, betas in chains.BETAS.items()}
NCSN = {name: chains.NCSN(sigmas=sigmas(N, 0.01, 10.0)) for name, sigmas in chains.SIGMAS.items()}
TABLES = {name: sde.discretize(N) for name, sde in {"vp": VP(), "subvp": SubVP(), "ve": VE()}.items()}
TABLES["tabulated ve"] = super(VE, VE()).discretize(N)
CHAINS = {**DDPM, **NCSN, **TABLES}
each_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
DENSITY = Gaussian.correlated(4)


@pytest.mark.slow
@each_chain
def test_steps_compose_to_the_marginals(chain):
    """m and s^2 through the chain's own transitions, step by step: m <- a m, s^2 <- a^2 s^2 + g^2."""
    times = chain.times
    mean, variance = (float(c) for c in chain.marginal(times[0]))
    variance **= 2
    for before, after in itertools.pairwise(times):
        a, g = (float(c) for c in chain.transition(before, after))
        mean, variance = a * mean, a**2 * variance + g**2
    end = chain.marginal(times[-1])
    np.testing.assert_allclose([mean, np.sqrt(variance)], [float(end.mean_coeff), float(end.std)], rtol=2e-4)


@pytest.mark.parametrize("name", DDPM)
def test_ddpm_steps_are_its_betas(name):
    chain = DDPM[name]
    times = np.concatenate([[0.0], chain.times])
    a, g = chain.transition(jnp.asarray(times[:-1], jnp.float32), jnp.asarray(times[1:], jnp.float32))
    np.testing.assert_allclose(g**2, chain.betas, rtol=1e-3)
    np.testing.assert_allclose(a**2 + g**2, 1.0, rtol=1e-6)
    assert bool((chain.betas > 0).all()) and bool((chain.betas < 1).all())


def test_the_ddpm_table_is_the_product_of_its_steps_in_float64():
    chain = chains.DDPM(betas=chains.linear_betas(1000))
    exact = np.cumprod(1.0 - np.asarray(chain.betas, np.float64))
    mean_coeff, std = chain.marginal(chain.times)
    np.testing.assert_allclose(np.asarray(mean_coeff, np.float64) ** 2, exact, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(std, np.float64) ** 2, 1.0 - exact, rtol=1e-6)


def test_the_cosine_schedule_has_the_cosine_marginal():
    t = np.arange(1, 900) / 1000
    chain = chains.DDPM(betas=chains.cosine_betas(1000))
    shape = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    mean_coeff, _ = chain.marginal(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(mean_coeff**2, shape(t) / shape(0.0), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sde", [VP(), SubVP(), VE()], ids=["vp", "subvp", "ve"])
def test_chains_tend_to_their_sde(sde):
    t = jnp.asarray([0.1, 0.3, 0.6, 1.0])
    with float64():
        gaps = []
        for n in (100, 200, 400):
            # Between levels a chain knows the nearest one only; ask it at its own times.
            chain = sde.discretize(n)
            at = chain.times[jnp.asarray([int(np.abs(np.asarray(chain.times) - float(u)).argmin()) for u in t])]
            ours, limit = chain.marginal(at), sde.marginal(at)
            gaps.append(float(jnp.max(jnp.abs(jnp.stack(ours) - jnp.stack(limit)))))
    if gaps[0] > 1e-9:  # otherwise the chain visits the marginals of the SDE
        assert gaps[1] < 0.6 * gaps[0] and gaps[2] < 0.6 * gaps[1], gaps


@pytest.mark.sweep(7)
@each_chain
@pytest.mark.parametrize("solver", [Ancestral(), DDIM(), UniPC()], ids=["ancestral", "ddim", "unipc"])
def test_chains_are_sampled_along_their_levels(chain, solver):
    n = 3000
    keys = sampling.sample_keys(jax.random.key(0), 0, n)
    process = chain.reverse(DENSITY.score(chain), noise_scale=noise_scale_of(solver))
    m, variance = (np.asarray(c) for c in DENSITY.variances(chain, jnp.ones(1)))
    z = np.random.RandomState(0).randn(n, 4) * np.sqrt(variance) @ DENSITY.basis.T + m * DENSITY.mean
    times = sampling.levels_of(chain, sampling.uniform_times(N, 0.0))
    state = sampling.integrate(keys, solver, process, jnp.asarray(z, jnp.float32), times)
    x = np.asarray(state.x)
    m, variance = (np.asarray(c) for c in DENSITY.variances(chain, times[-1:]))
    exact = (DENSITY.basis * variance[0]) @ DENSITY.basis.T
    # Some schedules end in steps that are coarse for a method of order 1 with noise.
    np.testing.assert_allclose(np.cov(x.T), exact, atol=(0.2 if solver == Ancestral() else 0.12) * exact.max())
    np.testing.assert_allclose(x.mean(axis=0), m[0] * DENSITY.mean, atol=0.05)


def test_a_solver_that_follows_a_drift_refuses_a_chain():
    chain = TABLES["vp"]
    process = chain.reverse(DENSITY.score(chain))
    keys = sampling.sample_keys(jax.random.key(0), 0, 2)
    with pytest.raises(UserError, match="DDPM chain has none"):
        sampling.integrate(keys, EulerMaruyama(), process, jnp.ones((2, 4)), chain.times[::-1])


def test_grids_of_any_length_move_onto_the_levels():
    chain = TABLES["vp"]
    for n in (1, 7, 150, N - 1, N, 5 * N):
        grid = np.asarray(sampling.levels_of(chain, sampling.uniform_times(n, 1 / N)))
        assert grid[0] == 1.0 and grid[-1] == np.float32(1 / N) and (np.diff(grid) < 0).all()
        assert len(grid) == min(n + 1, N)
    with pytest.raises(UserError, match="nearest to one of the 200 levels"):
        sampling.levels_of(chain, sampling.uniform_times(3, 0.9999))


# Song & Ermon 2020, table 4: data set, shape, largest distance, levels, Langevin steps, step size.
NCSNV2 = {
    "cifar10": (3 * 32 * 32, 50.0, 232, 5, 6.2e-6),
    "celeba": (3 * 64 * 64, 90.0, 500, 5, 3.3e-6),
    "bedroom": (3 * 128 * 128, 190.0, 1086, 3, 1.8e-6),
    "ffhq": (3 * 256 * 256, 348.0, 2311, 3, 0.9e-6),
}


@pytest.mark.parametrize("name", NCSNV2)
def test_the_techniques_give_the_published_choices(name):
    dim, sigma_max, levels, steps, step = NCSNV2[name]
    assert abs(chains.num_noise_levels(dim, 0.01, sigma_max) - levels) <= 1
    ours = chains.langevin_step(chains.noise_ratio(dim), steps)
    assert abs(ours - step) < 0.05e-6


def test_the_largest_distance_does_not_depend_on_the_blocks():
    data = np.random.RandomState(0).randn(50, 3, 2)
    flat = data.reshape(50, -1)
    exact = max(np.linalg.norm(a - b) for a in flat for b in flat)
    for block in (1, 7, 64):
        assert abs(chains.largest_distance(data, block=block) - exact) < 1e-9


def test_a_ratio_below_one_is_refused():
    with pytest.raises(UserError, match="expected more than 1"):
        chains.langevin_step(0.9, 5)


@pytest.mark.sweep
@pytest.mark.parametrize("n", [1000, 10_000])
@pytest.mark.parametrize("jump", [1, 2, 30])
def test_steps_of_long_chains_keep_all_digits(n, jump):
    """The variance of a step is one minus the product of its 1 - b, to the rounding of float32; under jit too."""
    chain = chains.DDPM(betas=chains.linear_betas(n, 0.1 / n, 20.0 / n))
    times = jnp.concatenate([jnp.zeros(1), chain.times])
    logs = np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(chain.betas, np.float64)))])
    exact = -np.expm1(logs[jump:] - logs[:-jump])
    for transition in (type(chain).transition, jax.jit(type(chain).transition)):
        std = np.asarray(transition(chain, times[:-jump], times[jump:]).std, np.float64)
        np.testing.assert_allclose(std**2, exact, rtol=1e-6)


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.0, 0.1], [0.1, np.nan], [-0.1]])
def test_variances_that_no_step_can_have_are_refused(betas):
    with pytest.raises(UserError, match="more than 0 and less than 1"):
        chains.DDPM(betas=jnp.asarray(betas))
