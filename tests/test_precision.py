"""With double precision switched on everything follows the type of the data, and single precision is what it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import likelihood, objectives, sampling, solvers
from score_sde.chains import Chain
from score_sde.config import build
from score_sde.likelihood.flow import decoder_term
from score_sde.models.adapters import LinenNetwork
from score_sde.models.mlp import MLP
from score_sde.models.ncsnpp import NCSNpp
from score_sde.objectives import NoiseAndFraction
from score_sde.parameterization import NoisePrediction, make_score_fn
from score_sde.sdes import VE, VP, SubVP
from score_sde.solvers.adaptive_sde import solve_sde
from score_sde.solvers.pairing import follows_drift
from score_sde.variational import LearnedReversal, hierarchical_elbo, learned_variance_bound, vlb_loss
from tests.laws import PARAMETERIZATIONS, float64

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
KEY = jax.random.key(1)
NOISE = NoisePrediction(condition_on="log_noise")
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def chains():
    """Made where they are used: their tables have the precision that is switched on."""
    return {f"chain of {name}": sde.discretize(50) for name, sde in SDES.items()}


def score(process):
    def score_fn(x, t):
        mean_coeff, std = process.marginal(t)
        return -x / (0.25 * mean_coeff**2 + std**2)[:, None]

    return score_fn


class Network:
    """The exact noise of data N(0, 0.25 I), told log(s / m)."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        ratio = jnp.exp(condition)[:, None]
        return x * ratio * jnp.sqrt(1.0 + ratio**2) / (0.25 + ratio**2)


def data(dtype):
    return jnp.asarray(np.random.RandomState(0).randn(4, 2) / 2, dtype)


def assert_type(call, dtype):
    """Of all floating-point results; only shapes and types are computed."""
    found = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(call)) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert found == {np.dtype(dtype)}


@each_dtype
def test_processes_and_losses_have_the_type_of_the_data(dtype):
    with float64():
        x, t = data(dtype), jnp.linspace(0.1, 0.9, 4)  # times of another type than the data
        for process in (*SDES.values(), *chains().values()):
            assert_type(lambda: process.prior_sample(KEY, (3, 2), dtype), dtype)  # noqa: B023 -- called at once
            assert_type(lambda: (process.prior_logp(x), process.perturb(KEY, x, t)), dtype)  # noqa: B023
            fields = {"sde": process, "weighting": objectives.variance_weighting}
            samplers = [
                build(law, fields)
                for law in objectives.TIME_SAMPLERS.values()
                if not (isinstance(process, Chain) and law in objectives.OF_SDE)
            ]
            for times in samplers:
                options = {"times": times, "weighting": objectives.variance_weighting}
                for loss in (
                    objectives.score_matching_loss(process, Network(), NOISE, **options),
                    objectives.criterion_loss(process, Network(), NOISE, objectives.Sliced(), **options),
                ):
                    assert_type(functools.partial(loss, {}, KEY, x, train=False), dtype)
        for make in PARAMETERIZATIONS.values():
            assert_type(lambda: make_score_fn(Network(), make(), VP(), {})(x, t.astype(dtype)), dtype)  # noqa: B023


@pytest.mark.slow
@each_dtype
def test_samples_have_the_type_of_their_starting_points(dtype):
    with float64():
        keys, x = sampling.sample_keys(KEY, 0, 4), data(dtype)
        correctors = {
            "langevin": solvers.PredictorCorrector(predictor=solvers.Ancestral(), corrector=solvers.Langevin()),
            "annealed": solvers.PredictorCorrector(
                predictor=solvers.NoPredictor(), corrector=solvers.AnnealedLangevin()
            ),
        }
        members = {name: make() for name, make in solvers.PREDICTORS.items() if name != "none"} | correctors
        for process in (*SDES.values(), *chains().values()):
            chain = isinstance(process, Chain)
            grids = [process.times[::-1]] if chain else [make(process, 30, 1e-3) for make in sampling.GRIDS.values()]
            for name, solver in members.items():
                some = process is SDES["vp"] or name in ("ancestral", "ddim", "unipc_3")
                if not some or (chain and follows_drift(solver)):
                    continue
                reverse = process.reverse(score(process), noise_scale=solvers.noise_scale_of(solver))
                for times in grids[:1] if name != "unipc_3" else grids:
                    assert_type(lambda: sampling.integrate(keys, solver, reverse, x, times).x, dtype)  # noqa: B023
        assert_type(lambda: solve_sde(keys, VP().reverse(score(VP())), x, t1=0.01).y, dtype)
        sampler = sampling.make_sampler(
            Network(), NOISE, VP(), solvers.UniPC(), times=sampling.uniform_times(9), dtype=dtype
        )
        assert_type(lambda: sampler({}, KEY, (3, 2)).x, dtype)
        assert_type(
            lambda: solvers.metropolis_langevin(
                keys, lambda x: -0.5 * jnp.sum(x**2, axis=1), x, step_size=0.1, num_steps=3
            ),
            dtype,
        )


@pytest.mark.slow
@each_dtype
def test_likelihoods_and_bounds_have_the_type_of_the_data(dtype):
    with float64():
        x, sde, keys = data(dtype), VP(), sampling.sample_keys(KEY, 0, 4)
        times, fn = sampling.log_snr_times(sde, 20, 1e-4), score(sde)
        for probes in (1, 2, None):
            assert_type(lambda: likelihood.log_likelihood(KEY, sde, fn, x, num_probes=probes), dtype)  # noqa: B023
            for measure in (likelihood.log_likelihood_on_grid, likelihood.sample_with_log_density):
                key = keys if measure is likelihood.sample_with_log_density else KEY
                assert_type(functools.partial(measure, key, sde, fn, x, times, num_probes=probes), dtype)
            assert_type(
                lambda: likelihood.nll_bound(KEY, sde, fn, x, form="sliced", num_probes=probes),  # noqa: B023
                dtype,
            )
        for importance in (True, False):
            assert_type(lambda: likelihood.nll_bound(KEY, sde, fn, x, importance=importance), dtype)  # noqa: B023
        assert_type(lambda: likelihood.bound_draw(KEY, sde, fn, x), dtype)
        assert_type(lambda: decoder_term(KEY, sde, fn, x, 1e-5), dtype)
        assert_type(lambda: (likelihood.encode(sde, fn, x).y, likelihood.interpolate(x, x + 1.0, 4)), dtype)
        chain = sde.discretize(50)
        predict = lambda x, t: NoiseAndFraction(x * chain.marginal(t).std[:, None], 0.5 * jnp.ones_like(x))  # noqa: E731
        for options in ({}, {"num_terms": 4}, {"decoder": "posterior"}, {"times": times}):
            assert_type(lambda: likelihood.chain_bound(KEY, chain, score(chain), x, **options), dtype)  # noqa: B023
        reversal = LearnedReversal(chain=chain, predict=predict)
        loss = vlb_loss(chain, objectives.with_variances(Network()), NOISE)
        assert_type(lambda: learned_variance_bound(KEY, chain, predict, x), dtype)
        assert_type(lambda: hierarchical_elbo(KEY, chain, reversal, x), dtype)
        assert_type(lambda: loss({}, KEY, x, train=False), dtype)


@each_dtype
@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_networks_have_the_type_of_their_input(dtype, embedding):
    with float64():
        image = {"channel_multipliers": (1,), "num_blocks": 1, "attention_resolutions": (4,), "num_classes": 2}
        for module, shape in (
            (MLP(features=16, num_blocks=1, embedding=embedding), (2, 3)),
            (NCSNpp(features=8, embedding=embedding, **image), (2, 4, 4, 1)),
        ):
            network = LinenNetwork(module)
            params = jax.eval_shape(lambda: network.init(KEY, shape))  # noqa: B023
            x, t = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(shape[:1], dtype)
            assert jax.eval_shape(network.apply, params, x, t).dtype == dtype


def measured(dtype):
    """Numbers of which some draw normal noise in single precision, and none uniform one."""
    x, sde, keys = data(dtype), VP(), sampling.sample_keys(KEY, 0, 4)
    times, fn = sampling.log_snr_times(sde, 30, 1e-3), score(sde)
    found = {
        "likelihood": likelihood.log_likelihood(KEY, sde, fn, x).logp,
        "on a grid": likelihood.log_likelihood_on_grid(KEY, sde, fn, x, times, num_probes=None).logp,
        "prior": sde.prior_sample(KEY, (3,), dtype),
    }
    for name in ("euler_maruyama", "edm_heun", "unipc_3", "sde_dpm_solver_3m"):
        solver = solvers.PREDICTORS[name]()
        reverse = sde.reverse(fn, noise_scale=solvers.noise_scale_of(solver))
        found[name] = sampling.integrate(keys, solver, reverse, x, times).x
    return found


@pytest.mark.long
def test_single_precision_gives_the_same_with_double_precision_switched_on():
    alone = jax.jit(lambda: measured(np.float32))()
    with float64():
        beside = jax.jit(lambda: measured(np.float32))()
    for name, value in alone.items():
        np.testing.assert_allclose(beside[name], value, rtol=2e-4, atol=2e-4, err_msg=name)


def test_double_precision_gives_the_density_of_the_data():
    """To far more digits than single precision has: log N(x; 0, v) at the time where the data enter."""
    with float64():
        x, sde = data(np.float64), VP()
        options = {"rtol": 1e-10, "atol": 1e-10, "t0": 1e-3}
        found = jax.jit(lambda x: likelihood.log_likelihood(KEY, sde, score(sde), x, **options).logp)(x)
        mean_coeff, std = sde.marginal(jnp.asarray([1e-3, 1.0]))
        v, end = 0.25 * mean_coeff**2 + std**2
        latent = x * jnp.sqrt(end / v)  # the prior stands for the marginal there
        exact = sde.prior_logp(latent) + jnp.log(end / v)
        np.testing.assert_allclose(found, exact, rtol=1e-8)
