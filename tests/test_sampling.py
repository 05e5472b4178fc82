"""Laws 4, 5 and 8 for whole samplers: identity of samples, grids, denoising, traces, devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.errors import UserError
from score_sde.parameterization import NoisePrediction
from score_sde.sdes import VP
from score_sde.solvers import DDIM, AnnealedLangevin, EDMHeun, EulerMaruyama, Langevin, NoPredictor, PredictorCorrector
from tests.analytic import SDES, Gaussian

DENSITY = Gaussian.correlated(4)
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


class ExactNetwork:
    """The exact noise prediction of the Gaussian, as a network."""

    def __init__(self, sde):
        self.sde = sde

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, key=None):
        t = condition / 999.0
        return -DENSITY.score(self.sde)(x, t) * self.sde.marginal(t).std[:, None]


def make(sde, *, n=50, solver=None, denoising="tweedie"):
    return sampling.make_sampler(
        ExactNetwork(sde),
        NoisePrediction(),
        sde,
        solver or EulerMaruyama(),
        times=sampling.uniform_times(n, 1e-3),
        denoising=denoising,
    )


@pytest.mark.slow
@pytest.mark.sweep
@each_sde
def test_samples_have_the_moments_of_the_data(sde):
    x = np.asarray(jax.jit(make(sde, n=500), static_argnums=2)({}, jax.random.key(0), (20_000, 4)).x)
    assert np.abs(x.mean(axis=0) - DENSITY.mean).max() < 0.03
    assert np.abs(np.cov(x.T) - DENSITY.covariance).max() < 0.03


@each_sde
def test_grids_run_from_one_to_the_end_and_decrease(sde):
    grids = (
        sampling.uniform_times(7, 0.01),
        sampling.quadratic_times(7, 0.01),
        sampling.log_snr_times(sde, 7, 0.01),
    )
    for grid in grids:
        assert grid.shape == (8,) and float(grid[0]) == 1.0
        np.testing.assert_allclose(grid[-1], 0.01, rtol=1e-6)
        assert bool(jnp.all(jnp.diff(grid) < 0))
    np.testing.assert_allclose(np.diff(sde.log_snr(grids[2])), np.diff(sde.log_snr(grids[2]))[0], rtol=1e-3)
    np.testing.assert_allclose(np.diff(np.sqrt(grids[1])), np.diff(np.sqrt(grids[1]))[0], rtol=1e-4)


def test_denoising_removes_the_last_noise():
    """At the end the noisy sample is off the mean by the last noise, whose scale is known."""
    sde, key, shape = VP(), jax.random.key(1), (4000, 4)
    results = {d: make(sde, n=20, denoising=d)({}, key, shape) for d in ("none", "mean", "tweedie")}
    last = float(sampling.uniform_times(20, 1e-3)[-2])
    step_noise = float(sde.diffusion(jnp.float32(last))) * np.sqrt(last - 1e-3)
    gap = results["none"].x - results["mean"].x
    assert abs(float(jnp.std(gap)) / step_noise - 1) < 0.03
    assert [int(results[d].num_evals) for d in ("none", "mean", "tweedie")] == [20, 20, 21]


def test_trajectory_ends_where_integration_does():
    sde = VP()
    keys = sampling.sample_keys(jax.random.key(0), 0, 3)
    process, times = sde.reverse(DENSITY.score(sde)), sampling.uniform_times(10)
    start = sampling.prior_samples(keys, sde, (4,))
    path = sampling.trajectory(keys, EulerMaruyama(), process, start, times)
    np.testing.assert_array_equal(path[0], start)
    np.testing.assert_array_equal(path[-1], sampling.integrate(keys, EulerMaruyama(), process, start, times).x)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "solver", [EulerMaruyama(), DDIM(), PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin())], ids=str
)
def test_kept_frames_are_those_of_the_whole_trajectory(solver):
    sde = VP()
    keys = sampling.sample_keys(jax.random.key(0), 0, 3)
    process, times = sde.reverse(DENSITY.score(sde)), sampling.uniform_times(10)
    start = sampling.prior_samples(keys, sde, (4,))
    whole = sampling.trajectory(keys, solver, process, start, times)
    for frames in ([0, 3, 10], [10, 3, 3, 0], [7]):
        kept = sampling.trajectory(keys, solver, process, start, times, frames=frames)
        np.testing.assert_array_equal(kept, whole[np.asarray(frames)])
    for frames in ([11], [-1], []):
        with pytest.raises(UserError, match="expected indices from 0 to 10"):
            sampling.trajectory(keys, solver, process, start, times, frames=frames)


def test_memory_of_a_trajectory_does_not_grow_with_the_number_of_steps():
    sde, shape = VP(), (2, 4096)

    def memory(steps):
        @jax.jit
        def run(key):
            keys, times = sampling.sample_keys(key, 0, shape[0]), sampling.uniform_times(steps)
            start, process = sampling.prior_samples(keys, sde, shape[1:]), sde.reverse(lambda x, t: -x)
            return sampling.trajectory(keys, EulerMaruyama(), process, start, times, frames=[0, steps // 2, steps])

        needed = run.lower(jax.random.key(0)).compile().memory_analysis()
        return needed.temp_size_in_bytes + needed.output_size_in_bytes

    image = 4 * shape[0] * shape[1]
    assert abs(memory(1000) - memory(10)) < image


def test_sweeping_beta_and_snr_traces_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(sde, corrector, key):
        solver = PredictorCorrector(predictor=EulerMaruyama(), corrector=corrector)
        return make(sde, solver=solver)({}, key, (2, 4)).x

    outputs = [
        draw(VP(beta_max=beta), Langevin(snr=snr), jax.random.key(0)) for beta in (10.0, 20.0) for snr in (0.1, 0.2)
    ]
    assert len({float(x.sum()) for x in outputs}) == 4


SWEPT = {
    "eta": lambda value: DDIM(eta=value),
    "churn": lambda value: EDMHeun(churn=value),
    "annealed snr": lambda value: PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(snr=value)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", SWEPT)
def test_sweeping_a_number_of_a_solver_traces_once(name):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(solver, key):
        return make(VP(), solver=solver)({}, key, (2, 4)).x

    outputs = [draw(SWEPT[name](value), jax.random.key(0)) for value in (0.1, 0.2, 0.3)]
    assert len({float(x.sum()) for x in outputs}) == 3
