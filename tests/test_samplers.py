"""The samplers of a configuration: what one says of itself is what it does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import default_config
from score_sde.experiment import Experiment

MLP = {"model.name": "mlp", "model.features": 4, "model.num_blocks": 1, "sampling.num_steps": 5}
VAE = {"model.name": "vae", "model.widths": (4,), "model.latent_dim": 2, "objective.kind": "bound"}
JOINT = {"sampling.joint_steps": True, "sampling.tolerance": 0.1, "sampling.sde_rtol": 0.5, "sampling.sde_atol": 0.5}
CASES = {
    "euler_maruyama": {},
    "heun": {"sampling.denoising": "none"},
    "unipc_3": {"sampling.denoising": "mean"},
    "none + langevin": {"sampling.num_corrections": 3},
    "ancestral + annealed_langevin": {},
    "adaptive": JOINT,
    "adaptive_sde": JOINT,
}


def experiment(**changes):
    config = default_config()
    config.update_from_flattened_dict({**MLP, **changes})
    return Experiment.from_config(config, (2,), None, purposes={"sample"})


def of(name):
    predictor, _, corrector = name.partition(" + ")
    return experiment(**CASES[name], **{"sampling.predictor": predictor, "sampling.corrector": corrector or "none"})


class Counting:
    """The noise of standard normal data, and how often it is asked for."""

    def __init__(self):
        self.count = 0

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        jax.debug.callback(self._add)
        return x

    def _add(self):
        self.count += 1


@pytest.mark.sweep
@pytest.mark.parametrize("name", CASES)
def test_what_a_sampler_says_it_costs_is_what_it_evaluates(name):
    network = Counting()
    sampler = dataclasses.replace(of(name), network=network).sampler
    solution = jax.jit(sampler, static_argnums=2)({}, jax.random.key(0), (3, 2), 0)
    jax.effects_barrier()
    assert sampler.name == name
    assert solution.num_evals.tolist() == [network.count] * 3
    assert sampler.num_evals in (network.count, None)
    assert (sampler.num_evals is None) is name.startswith("adaptive")


@pytest.mark.slow
def test_the_way_of_samples_ends_where_they_are():
    run = experiment(**{"sampling.denoising": "none", "sampling.grid": "log_snr"})
    params, key = run.init_state().params, jax.random.key(0)
    steps = run.sampler.along(run.times)
    path = steps.path(params, key, (3, 2), 4, frames=[0, 5])
    np.testing.assert_array_equal(path[1], run.sampler(params, key, (3, 2), 4).y)


def test_an_adaptive_sampler_is_watched_on_the_process_that_it_follows():
    for name, scale in (("adaptive", 0.0), ("adaptive_sde", 0.7)):
        run = experiment(**{"sampling.predictor": name, "sampling.noise_scale": 0.7})
        steps = run.sampler.along(run.times)
        assert steps.noise_scale == scale and steps.process is run.sampler.process


def test_a_latent_variable_model_is_sampled_by_its_decoder_whatever_the_predictor():
    for predictor in ("heun", "adaptive"):
        run = experiment(**VAE, **{"sampling.predictor": predictor})
        params = run.init_state().params
        x, num_evals, success = run.sampler(params, jax.random.key(0), (3, 2), 0)
        assert (run.sampler.name, run.sampler.num_evals) == ("decoder", 1)
        assert num_evals.tolist() == [1] * 3 and success.all() and x.shape == (3, 2)
        assert run.sampler.along(jnp.array([1.0, 0.5])) is None
