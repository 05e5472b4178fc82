"""The lineage as configurations: each trains, samples and is measured; where two of them are one, so is the code."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.chains import linear_betas
from score_sde.cli import load_config
from score_sde.config import from_file
from score_sde.errors import UserError
from score_sde.evaluation.samples import draw_samples
from score_sde.fields import Settings
from score_sde.modes import likelihood as likelihood_mode
from score_sde.modes.workdir import build_experiment
from score_sde.objectives import elbo, sample_from_prior
from score_sde.parameterization import NoisePrediction
from score_sde.sampling import make_sampler
from score_sde.solvers import Ancestral, GaussianReversal
from score_sde.state import create_state
from score_sde.training.objective import Trainees
from score_sde.variational import first_half, vlb_loss, with_fraction
from tests.scripts import EXPERIMENTS, load_script

LINEAGE = EXPERIMENTS / "lineage"
FILES = sorted((LINEAGE / "configs").glob("*.py"))


def toy(*overrides):
    """An experiment on two-dimensional points with a tiny network."""
    settings = [
        *("data.name=toy:moons", "model.name=mlp", "model.features=8", "model.num_blocks=1", "model.dropout=0.0"),
        *("likelihood.batch_size=64", "sampling.predictor=ancestral", "objective.t_min=0.1", "sampling.t_min=0.1"),
        *("parameterization.num_scales=10", "sde.beta_max=5.0", "sampling.num_steps=9", "sampling.num_samples=64"),
        *overrides,
    ]
    return build_experiment(load_config(None, [f"--config.{setting}" for setting in settings]))


BOUND = ("sde.schedule=linear", "objective.kind=bound")
VAE = ("model.name=vae", "objective.kind=bound", "model.latent_dim=2", "model.widths=(8,)")


def state_of(experiment, seed=0):
    """A state whose parameters are random, the last layers' too, which would start at zero."""
    state = create_state(experiment.network, experiment.tx, seed, (1, *experiment.event_shape))
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, noisy)
    return dataclasses.replace(state, params=params, ema_params=params)


def measure(experiment, state, workdir, monkeypatch, source=None):
    """What --mode=likelihood writes of a given experiment and state."""
    monkeypatch.setattr(likelihood_mode, "experiment_of", lambda config, workdir, mode: experiment)
    monkeypatch.setattr(likelihood_mode, "trained_model", lambda experiment, workdir: (state, {}))
    if source is not None:
        monkeypatch.setattr(likelihood_mode, "load_split", lambda config, split: source)
        monkeypatch.setattr(likelihood_mode, "measured_split", lambda config, workdir, split: source)
    likelihood_mode.run_likelihood(experiment.settings, workdir, "test")
    return json.loads((workdir / "likelihood.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["denoising", "implicit", "sliced", "sliced_vr"])
def test_the_family_differs_from_denoising_by_one_per_dimension_in_expectation(kind):
    losses = {}
    for name in ("denoising", kind):
        experiment = toy(f"objective.kind={name}")
        params = state_of(experiment).params
        x = jax.random.normal(jax.random.key(1), (20_000, 2))
        losses[name] = experiment.loss(params, jax.random.key(2), x, train=False)
    difference = np.asarray(losses["denoising"] - losses[kind], np.float64)
    expected = 0.0 if kind == "denoising" else 1.0
    assert abs(difference.mean() - expected) <= 4.0 * difference.std() / np.sqrt(len(difference))


@pytest.mark.slow
@pytest.mark.parametrize(("variances", "fraction"), [("small", 0.0), ("large", 1.0)])
def test_fixed_variances_are_learned_ones_that_always_say_the_same(variances, fraction):
    fixed = toy(*BOUND, f"parameterization.variances={variances}")
    params = state_of(fixed).params

    class Constant:
        def init(self, key, shape):
            return {}

        def apply(self, params, x, condition, *, label=None, key=None):
            output = fixed.network.apply(params, x, condition, key=key)
            return jnp.concatenate([output, jnp.full_like(output, 2.0 * fraction - 1.0)], axis=-1)

    by_hand = vlb_loss(fixed.process, Constant(), fixed.parameterization, quantization=fixed.quantization)
    x = jax.random.normal(jax.random.key(1), (16, 2))
    ours, theirs = (f(params, jax.random.key(2), x, train=False) for f in (fixed.loss, by_hand))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_a_reversal_with_fixed_variances_samples_like_the_ancestral_solver(large):
    experiment = toy(*BOUND, f"parameterization.variances={'large' if large else 'small'}")
    params = state_of(experiment).params

    def draw(solver):
        sampler = make_sampler(
            experiment.network, experiment.parameterization, experiment.process, solver, times=experiment.times
        )
        return sampler(params, jax.random.key(3), (32, 2)).x

    theirs = draw(GaussianReversal(law=experiment.reversal(params).step))
    np.testing.assert_allclose(theirs, draw(Ancestral(large=large)), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_thresholding_reaches_the_learned_reversal():
    plain = toy(*BOUND, "parameterization.variances=learned")
    clipped = plain.with_sampling(thresholding="static")
    params, t = state_of(plain).params, jnp.full(8, 0.9)
    x = 3.0 * jax.random.normal(jax.random.key(1), (8, 2))
    m, s = (c[:, None] for c in plain.process.marginal(t))
    noise, fraction = clipped.reversal(params).predict(x, t)
    raw = plain.reversal(params).predict(x, t)
    np.testing.assert_allclose((x - s * noise) / m, np.clip((x - s * raw.noise) / m, -1.0, 1.0), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(fraction, raw.fraction)


def test_learned_variances_double_the_outputs_and_share_their_parameters():
    class Echo:
        def init(self, key, shape):
            return {"shape": shape}

        def apply(self, params, x, condition, *, label=None, key=None):
            return jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)

    trainees = Trainees.of_score(Echo(), "learned")
    whole = trainees.reversal.apply({}, jnp.zeros((2, 3)), jnp.zeros(2))
    np.testing.assert_array_equal(trainees.score.apply({}, jnp.zeros((2, 3)), jnp.zeros(2)), whole[:, :3])
    assert trainees.score.init(jax.random.key(0), (1, 3)) == trainees.reversal.init(jax.random.key(0), (1, 3))
    assert first_half(with_fraction(Echo(), 0.5)).apply({}, jnp.zeros((2, 3)), jnp.zeros(2)).shape == (2, 3)


class Exact:
    """The noise and the variances of the exact reversal of data N(0, v I), as a network with two outputs says them."""

    def __init__(self, process, variance):
        self._process, self._variance = process, variance

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        chain, v = self._process, self._variance
        t = condition / 999.0
        first = jnp.round(t * chain.num_levels) < 1.5
        s = jnp.where(first, 0.0, t - 1.0 / chain.num_levels)
        m, std = chain.marginal(t)
        total = v * m**2 + std**2
        below_m, below_std = chain.marginal(s)
        transition = chain.transition(s, t)
        log_exact = jnp.log(transition.std) + 0.5 * jnp.log((v * below_m**2 + below_std**2) / total)
        # The two ends of the interpolation; at the first level those of the decoder.
        log_most = jnp.where(first, jnp.log(std / m), jnp.log(transition.std))
        one, two = chain.times[0], chain.times[1]
        log_least = jnp.where(first, jnp.log(chain.posterior(one, two).std), jnp.log(chain.posterior(s, t).std))
        fraction = (log_exact - log_least) / (log_most - log_least)
        noise = (std / total)[:, None] * x
        return jnp.concatenate([noise, jnp.broadcast_to((2.0 * fraction - 1.0)[:, None], noise.shape)], axis=-1)


@pytest.mark.slow
def test_the_bound_of_the_exact_reversal_is_the_entropy_through_the_mode(tmp_path, monkeypatch):
    # With the true posterior at every step the bound loses nothing but the divergence of the prior from the marginal.
    from score_sde.data import SourceInfo
    from score_sde.data.base import ArraySource

    variance, dim, count = 0.3, 2, 2000
    experiment = toy(*BOUND, "parameterization.variances=learned", "sde.beta_max=9.0", "likelihood.batch_size=500")
    exact = Exact(experiment.process, variance)
    experiment = dataclasses.replace(experiment, network=first_half(exact), reversal_network=exact)
    monkeypatch.setattr(likelihood_mode, "_has_flow", lambda config: False)
    data = (np.sqrt(variance) * np.random.default_rng(0).standard_normal((count, dim))).astype(np.float32)
    source = ArraySource(SourceInfo("gaussian", (dim,), None, None), data)
    state = dataclasses.replace(state_of(toy()), params={}, ema_params={})
    found = measure(experiment, state, tmp_path, monkeypatch, source)["chain_bound"]

    m, std = (float(c) for c in experiment.process.marginal(jnp.ones(())))
    log_density = -0.5 * (data.astype(np.float64) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=1)
    # log p(x_0) - E_q log q(x_T) + E_q log prior(x_T), with the marginal q(x_T) = N(0, v m^2 + s^2)
    total, square = variance * m**2 + std**2, (m * data.astype(np.float64)) ** 2 + std**2
    log_ratio = 0.5 * (square / total + np.log(total) - square).sum(axis=1)
    exact_bits = -(log_density + log_ratio) / (dim * np.log(2.0))
    with np.load(tmp_path / "likelihood.npz") as file:
        difference = file["chain_bound"] - exact_bits
    assert abs(difference.mean()) < 4.0 * difference.std() / np.sqrt(count)
    assert difference.std() / np.sqrt(count) < 0.05  # so that the line above says something
    np.testing.assert_allclose(found["bits_per_dim"], exact_bits.mean(), atol=0.2)
    assert found["variances"] == "learned, learned"


@pytest.mark.slow
def test_the_bound_is_least_at_the_exact_reversal():
    exact = Exact(toy(*BOUND).process, 0.3)
    chain = toy(*BOUND).process
    loss = vlb_loss(chain, exact, NoisePrediction(condition_on="time"))
    x = np.sqrt(0.3) * jax.random.normal(jax.random.key(0), (20_000, 2))

    class Shifted:
        init = exact.init

        def apply(self, params, x, condition, *, label=None, key=None):
            noise, raw = jnp.split(exact.apply({}, x, condition), 2, axis=-1)
            return jnp.concatenate([noise * (1.0 + params["noise"]), raw + params["fraction"]], axis=-1)

    shifted = vlb_loss(chain, Shifted(), NoisePrediction(condition_on="time"))

    def mean(shift):
        losses = shifted(shift, jax.random.key(1), x, train=False)
        return jnp.mean(losses)

    zero = {"noise": jnp.zeros(()), "fraction": jnp.zeros(())}
    base = float(mean(zero))
    np.testing.assert_allclose(base, float(jnp.mean(loss({}, jax.random.key(1), x, train=False))), rtol=1e-6)
    for name in zero:
        for sign in (-0.2, 0.2):
            assert float(mean(zero | {name: jnp.asarray(sign)})) > base


@pytest.mark.slow
def test_the_loss_of_a_vae_is_its_negative_bound_and_its_samples_are_those_of_its_prior():
    experiment = toy(*VAE)
    params, model = state_of(experiment).params, experiment.latent
    x = jax.random.normal(jax.random.key(1), (6, 2))
    expected = -elbo(jax.random.key(2), model, params, x) / 2.0
    np.testing.assert_allclose(experiment.loss(params, jax.random.key(2), x, train=False), expected, rtol=1e-6)
    drawn = draw_samples(experiment, params)
    assert drawn.num_evals == 1.0
    again = draw_samples(experiment.with_sampling(batch_size=10), params)  # the last of the batches is cut
    np.testing.assert_allclose(drawn.x, again.x, rtol=1e-5, atol=1e-6)
    later = sample_from_prior(jax.random.key(4), model, params, 5, first=3)
    np.testing.assert_allclose(later[0], sample_from_prior(jax.random.key(4), model, params, 5)[3], rtol=1e-5)


def test_a_vae_is_measured_through_the_mode_and_more_weights_bound_more_tightly(tmp_path, monkeypatch):
    experiment = toy(*VAE, "likelihood.num_examples=1500", "likelihood.batch_size=500", "likelihood.num_weights=20")
    found = measure(experiment, state_of(experiment), tmp_path, monkeypatch)
    assert found["quantity"] == "bound of 20 importance weights"
    with np.load(tmp_path / "likelihood.npz") as file:
        gain = file["nats"] - file["elbo_nats"]
    assert gain.mean() > 4.0 * gain.std() / np.sqrt(len(gain))
    np.testing.assert_allclose(found["nats_per_example"] + found["elbo"], gain.mean(), rtol=1e-5)


def test_a_vae_has_no_score_and_says_so():
    experiment = toy(*VAE)
    with pytest.raises(UserError, match=r"variational autoencoder .* has no score.*expected --mode=train"):
        experiment.score_fn(state_of(experiment).params)(jnp.zeros((1, 2)), jnp.ones(1))


REFUSED = {
    "bound without a chain": (("objective.kind=bound",), "schedule=continuous names no chain .* such as config.sde"),
    "variances that nothing trains": (
        ("sde.schedule=linear", "parameterization.variances=learned"),
        "variances is learned, and nothing but the bound .* config.objective.kind=bound",
    ),
    "hybrid without learned variances": ((*BOUND, "objective.hybrid=0.001"), "objective.hybrid is 0.001.*=learned"),
    "steps drawn with learned variances": (
        (*BOUND, "parameterization.variances=learned", "likelihood.chain_terms=4"),
        "chain_terms is 4, and the bound with learned variances takes all steps",
    ),
    "vae without a bound": (("model.name=vae",), "model.name is vae and config.objective.kind is denoising"),
    "vae with a dequantizer": ((*VAE, "likelihood.dequantization=variational"), "dequantization is variational"),
    "unknown objective": (("objective.kind=denoisin",), "kind is 'denoisin'; expected .* Did you mean 'denoising'"),
    "unknown variances": (
        ("parameterization.variances=larg",),
        "variances is 'larg'; expected .* Did you mean 'large'",
    ),
    "unknown network": (("model.name=va",), "model.name is 'va'; expected .* Did you mean 'vae'"),
    "no projections": (("objective.num_projections=0",), "num_projections is 0; expected an integer from 1"),
    "no weights": (("likelihood.num_weights=0",), "num_weights is 0; expected an integer from 1"),
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused_with_what_to_do(overrides, message):
    with pytest.raises(UserError, match=message):
        toy(*overrides)


def tiny(file):
    config = from_file(file)
    config.data.name = "digits"
    config.model.features, config.model.channel_multipliers, config.model.attention_resolutions = 8, (1,), ()
    config.model.latent_dim, config.model.widths = 2, (16,)
    if config.parameterization.num_scales == 500:
        config.parameterization.num_scales, config.sampling.num_steps = 50, 49
        config.objective.t_min = config.sampling.t_min = 1.0 / 50
    config.training.num_steps, config.training.batch_size = 2, 8
    config.training.log_every = config.training.eval_every = config.training.checkpoint_every = 1
    config.sampling.num_steps = min(config.sampling.num_steps, 49)
    config.sampling.num_samples = config.sampling.batch_size = 8
    config.likelihood.num_examples = config.likelihood.batch_size = 8
    config.likelihood.num_steps, config.likelihood.bound_times, config.likelihood.budget_examples = 4, 2, 0
    config.likelihood.noise_levels, config.likelihood.dequantization = 0, "uniform"
    return Settings.of(config)


@pytest.mark.sweep
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_configuration_of_the_lineage_builds_and_its_training_step_traces(file):
    experiment = build_experiment(from_file(file))
    state = experiment.abstract_state()
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))
    assert 185_000 < size < 195_000  # the same budget for all
    batch = jax.ShapeDtypeStruct((64, *experiment.event_shape), np.uint8)
    _, metrics = jax.eval_shape(experiment.train_step, state, batch)
    assert metrics["loss"].shape == ()
    if experiment.settings.objective.times == "levels":  # the grid visits every level, once
        np.testing.assert_allclose(experiment.times, experiment.process.times[::-1], atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_ancestor_trains_samples_and_gives_finite_bits(file, tmp_path):
    from score_sde.modes import MODES

    config = tiny(file)
    for mode in ("train", "sample", "likelihood"):
        MODES[mode](config, tmp_path, "test")
    table = load_script(LINEAGE / "table.py")
    report = json.loads((tmp_path / "likelihood.json").read_text())
    found = table.bound_of(report)
    assert np.isfinite(found.value) and np.isfinite(found.std_error)
    with np.load(tmp_path / "samples.npz") as samples:
        assert samples["samples"].shape == (8, 8, 8, 1)


def test_the_simple_chain_is_the_one_of_its_paper_at_another_length():
    betas = build_experiment(from_file(LINEAGE / "configs" / "ddpm.py")).process.betas
    # Half the steps of twice the variance: the same total noise as 1000 steps from 1e-4 to 0.02.
    np.testing.assert_allclose(jnp.sum(betas), jnp.sum(linear_betas(1000)), rtol=1e-2)


def test_every_test_that_the_story_names_is_there():
    story = (LINEAGE / "README.md").read_text()
    tests = Path(__file__).parents[1]
    for part, name in re.findall(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`", story):
        file = Path(__file__).parent / part if "/" not in part else tests / part
        assert f"def {name}(" in file.read_text(), f"{part}::{name}"
    for path in re.findall(r"`((?:score_sde|tests)/[\w/.]+)`", story):
        assert (tests.parent / path).exists(), path
