"""Sample i is sample i: in a batch of 1, 7 or 64, on one device or eight."""

import jax
import numpy as np
import pytest

from score_sde import sampling
from score_sde.distributed import batch_sharding, make_mesh
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsnpp import NCSNpp
from score_sde.parameterization import NoisePrediction, make_score_fn
from score_sde.sdes import VE, VP, SubVP
from score_sde.solvers import AnnealedLangevin, EulerMaruyama, Langevin, NoPredictor, PredictorCorrector
from tests.laws import DETERMINISTIC, STOCHASTIC

SOLVERS = {
    **STOCHASTIC,
    **{name: solver for name, (solver, _) in DETERMINISTIC.items()},
    "langevin": PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin(per_sample=True), num_corrections=2),
    "annealed_langevin": PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(snr=0.1)),
}
SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(sigma_max=10.0)}
KEY, COUNT = jax.random.key(3), 64


def ulps(a, b):
    """The largest difference in units in the last place of each sample's largest coordinate."""
    a, b = (np.asarray(x).reshape(len(x), -1) for x in (a, b))
    unit = np.spacing(np.abs(a).max(axis=1, keepdims=True).astype(np.float32))
    return float((np.abs(a - b) / unit).max())


def elementwise(sde):
    """The score of N(0.3, 0.25 I), which mixes no coordinates: what differs is the solver's doing."""

    def score_fn(x, t):
        m, s = (c[:, None] for c in sde.marginal(t))
        return -(x - 0.3 * m) / (0.25 * m**2 + s**2)

    return score_fn


def drawer(sde, score_fn, solver, shape, noise_scale, steps):
    times = sampling.uniform_times(steps, 1e-2)

    def draw(keys):
        start = sampling.prior_samples(keys, sde, shape)
        return sampling.integrate(keys, solver, sde.reverse(score_fn, noise_scale=noise_scale), start, times).x

    return jax.jit(draw)


CASES = [(name, "vp") for name in SOLVERS] + [("euler_maruyama", "ve"), ("unipc_3", "ve"), ("dpm_solver_3m", "subvp")]


@pytest.mark.sweep(9)
@pytest.mark.parametrize(("name", "process"), CASES)
def test_a_sample_ignores_its_batch_and_its_device(name, process):
    """Not bit for bit: XLA contracts multiplications and additions differently in programs of other shapes.

    The second differences of multistep solvers of order 3 make more of it.
    """
    sde = SDES[process]
    draw = drawer(sde, elementwise(sde), SOLVERS[name], (6,), 0.0 if name in DETERMINISTIC else 1.0, 32)
    keys = sampling.sample_keys(KEY, 0, COUNT)
    whole = draw(keys)
    assert len(np.unique(np.asarray(whole)[:, 0])) == COUNT
    worst = max(ulps(whole[:7], draw(keys[:7])), ulps(whole[5:6], draw(keys[5:6])))
    split = draw(jax.device_put(keys, batch_sharding(make_mesh())))
    assert len(split.sharding.device_set) == jax.device_count() > 1
    worst = max(worst, ulps(whole, split))
    assert worst <= (64 if name.endswith(("3m", "3")) else 16)


@pytest.mark.slow
def test_with_a_network_it_is_so_up_to_the_rounding_of_its_products():
    """Matrix products of another shape add up in another order."""
    sde, shape = VP(), (8, 8, 1)
    network = LinenNetwork(NCSNpp(features=8, channel_multipliers=(1, 2), num_blocks=1, attention_resolutions=(4,)))
    params = network.init(jax.random.key(1), (1, *shape))
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(2), leaf.shape), params)
    score_fn = make_score_fn(network, NoisePrediction(), sde, params)
    draw = drawer(sde, score_fn, SOLVERS["langevin"], shape, 1.0, 5)
    keys = sampling.sample_keys(KEY, 0, COUNT)
    whole = draw(keys)
    split = draw(jax.device_put(keys, batch_sharding(make_mesh())))
    found = [ulps(whole[:7], draw(keys[:7])), ulps(whole[5:6], draw(keys[5:6])), ulps(whole, split)]
    assert max(found) <= 32


def test_batch_wide_langevin_is_the_same_on_any_number_of_devices():
    """Its norms are means over the batch, whose sum over devices rounds in another order."""
    sde = VP()
    solver = PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin(per_sample=False))
    draw = drawer(sde, elementwise(sde), solver, (6,), 1.0, 32)
    keys = sampling.sample_keys(KEY, 0, COUNT)
    found = ulps(draw(keys), draw(jax.device_put(keys, batch_sharding(make_mesh()))))
    assert found <= 16
