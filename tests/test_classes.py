"""A class-conditional model whose scores are exact has the exact law of every class, whatever draws or measures it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.classes import class_prediction, class_score
from score_sde.config import default_config
from score_sde.data import ArraySource, SourceInfo
from score_sde.errors import UserError
from score_sde.evaluation.likelihood import dataset_bound, dataset_likelihood
from score_sde.evaluation.samples import draw_samples, identity_of_samples, in_rows, latent_codes, sampled_labels
from score_sde.experiment import Experiment
from score_sde.labels import Conditioned
from score_sde.parameterization import NoisePrediction
from score_sde.sdes import VP
from score_sde.variational import NoiseAndFraction, with_fraction

MEANS, STDS = np.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]), np.array([0.3, 0.4, 0.2])


class Exact:
    """The noise of three Gaussians by their class, and of their mixture for none, told log(s / m) of the VP SDE."""

    def init(self, key, shape):
        return {"zero": jnp.zeros(())}

    def apply(self, params, x, condition, *, label=None, key=None):
        ratio = jnp.exp(condition)[:, None]
        y = x * jnp.sqrt(1.0 + ratio**2)
        variance = STDS[None] ** 2 + ratio**2  # (batch, class)
        offsets = y[:, None] - MEANS[None]
        noise = ratio[:, :, None] * offsets / variance[:, :, None] + params["zero"]
        logs = -0.5 * jnp.sum(offsets**2, axis=2) / variance - jnp.log(variance)
        index = jnp.full(x.shape[:1], -1) if label is None else label
        share = jnp.where(index[:, None] < 0, jax.nn.softmax(logs), jax.nn.one_hot(index, 3))
        return jnp.sum(share[:, :, None] * noise, axis=1)


def experiment(**changes):
    config = default_config()
    fields = {
        **{"data.name": "toy:rings", "model.name": "mlp", "model.features": 8, "conditioning.classes": True},
        **{"sampling.predictor": "heun", "sampling.num_steps": 20, "sampling.grid": "log_snr"},
        **{"sampling.num_samples": 90, "sampling.batch_size": 90, "likelihood.num_probes": 0},
        **{"likelihood.batch_size": 8, "likelihood.tolerance": 1e-4},
    }
    config.update_from_flattened_dict(fields | {name.replace("__", "."): value for name, value in changes.items()})
    made = Experiment.from_config(config, (2,), None, num_classes=3, purposes=("sample", "likelihood"))
    views = {"network": Exact(), "reversal_network": with_fraction(Exact(), 0.0)}
    return dataclasses.replace(made, **views, parameterization=NoisePrediction(condition_on="log_noise"))


PARAMS = {"zero": jnp.zeros(())}


def drawn(**changes):
    return draw_samples(experiment(**changes), PARAMS).x


def log_density(x, label):
    return -0.5 * np.sum((x - MEANS[label]) ** 2, axis=1) / STDS[label] ** 2 - np.log(2 * np.pi * STDS[label] ** 2)


SAMPLERS = {
    "steps": {},
    "steps with noise": {"sampling__predictor": "sde_dpm_solver_2m"},
    "adaptive": {"sampling__predictor": "adaptive", "sampling__tolerance": 1e-3},
    "adaptive, jointly": {
        "sampling__predictor": "adaptive",
        "sampling__tolerance": 1e-3,
        "sampling__joint_steps": True,
    },
    "adaptive with noise": {"sampling__predictor": "adaptive_sde"},
    "a chain": {"sampling__predictor": "ddim", "sde__schedule": "linear"},
    "a chain with learned variances": {
        **{"sampling__predictor": "ancestral", "sde__schedule": "linear", "objective__kind": "bound"},
        **{"parameterization__variances": "learned", "sampling__num_steps": 100},
    },
}


@pytest.mark.sweep(9)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_of_every_sampler_have_the_law_of_their_class(name):
    count = 600
    x = drawn(**SAMPLERS[name], sampling__num_samples=count, sampling__batch_size=count)
    for label in range(3):
        mine = x[label::3]  # sample i is of class i modulo 3
        error = STDS[label] / np.sqrt(len(mine))
        np.testing.assert_allclose(mine.mean(axis=0), MEANS[label], atol=5 * error)
        np.testing.assert_allclose(mine.std(axis=0), STDS[label], rtol=0.25)


def test_the_class_of_a_sample_follows_from_its_number_alone():
    whole = drawn()
    np.testing.assert_array_equal(
        drawn(sampling__first=31, sampling__num_samples=7, sampling__batch_size=4), whole[31:38]
    )
    of_two = drawn(conditioning__labels=(2, 0), sampling__num_samples=6)
    # The noise of a sample does not depend on its class.
    assert (of_two == whole[:6]).all(axis=1).tolist() == [False, False, True, True, False, False]


def test_a_scale_of_one_is_the_class_and_of_zero_is_no_class_bit_for_bit():
    x, t = jax.random.normal(jax.random.key(0), (6, 2)), jnp.linspace(0.1, 1.0, 6)
    label, none = jnp.arange(6) % 3, jnp.full(6, -1)
    score, free = (experiment().score_fn(Conditioned(PARAMS, given))(x, t) for given in (label, none))
    given = Conditioned(PARAMS, label)
    one, zero, two = (experiment(conditioning__scale=w).followed_score(given)(x, t) for w in (1.0, 0.0, 2.0))
    np.testing.assert_array_equal(one, score)
    np.testing.assert_array_equal(zero, free)
    np.testing.assert_allclose(two, free + 2.0 * (score - free), rtol=1e-4, atol=1e-4)


def test_guidance_moves_samples_of_a_class_away_from_the_others():
    plain, guided = (drawn(conditioning__scale=w, sampling__num_samples=90) for w in (1.0, 3.0))
    for label in range(3):
        outwards = MEANS[label] - MEANS.mean(axis=0)
        assert ((guided - plain)[label::3] @ outwards).mean() > 0.0
        assert (guided[label::3].std(axis=0) < plain[label::3].std(axis=0)).all()


@pytest.mark.slow
def test_an_interval_and_a_rescaling_guide_the_samples_that_are_drawn():
    guided = {"conditioning__scale": 3.0, "sampling__num_steps": 8}
    plain, everywhere = drawn(sampling__num_steps=8), drawn(**guided)
    np.testing.assert_array_equal(drawn(**guided, conditioning__guidance_interval=(0.5, 0.5)), plain)
    np.testing.assert_array_equal(drawn(**guided, conditioning__guidance_interval=()), everywhere)
    np.testing.assert_allclose(drawn(**guided, conditioning__guidance_interval=(0.0, 1e6)), everywhere, atol=1e-5)
    within = {"conditioning__guidance_interval": (0.5, 2.0), "conditioning__rescale": 0.5}
    limited, rescaled = (drawn(**guided, **{name: value}) for name, value in within.items())
    assert all(np.abs(each - other).max() > 0.01 for each in (limited, rescaled) for other in (plain, everywhere))
    known = {identity_of_samples(experiment(**guided, **changes), PARAMS) for changes in ({}, within)}
    assert len(known) == 2


def test_an_interval_is_of_noise_to_signal_ratios():
    made = experiment(conditioning__scale=3.0, conditioning__guidance_interval=(0.5, 2.0))
    ratios, given = jnp.array([0.1, 0.6, 1.9, 2.1]), Conditioned(PARAMS, jnp.array([0, 1, 2, 0]))
    t, x = made.process.inverse_log_snr(-2.0 * jnp.log(ratios)), jax.random.normal(jax.random.key(0), (4, 2))
    outside, inside = experiment().followed_score(given), experiment(conditioning__scale=3.0).followed_score(given)
    expected = jnp.where(jnp.array([False, True, True, False])[:, None], inside(x, t), outside(x, t))
    np.testing.assert_allclose(made.followed_score(given)(x, t), expected, rtol=1e-5)


@pytest.mark.parametrize("limits", [{}, {"interval": (0.3, 3.0), "process": VP()}, {"rescale": 0.7}])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_a_guided_step_has_the_guided_noise_and_the_variance_of_its_class(scale, limits):
    label, x, t = jnp.array([0, 2, 1]), jax.random.normal(jax.random.key(0), (3, 2)), jnp.array([0.2, 0.5, 0.9])

    def predict_of(params):
        label = params.label[:, None]
        return lambda x, t: NoiseAndFraction(jnp.sin(x + t[:, None] + label), jnp.broadcast_to(0.1 * label, x.shape))

    def score_of(params):
        return lambda x, t: -predict_of(params)(x, t).noise

    given = Conditioned(PARAMS, label)
    noise, fraction = class_prediction(predict_of, given, scale, **limits)(x, t)
    np.testing.assert_allclose(noise, -class_score(score_of, given, scale, **limits)(x, t), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fraction, [[0.0] * 2, [0.2] * 2, [0.1] * 2], rtol=1e-6)


@pytest.mark.slow
def test_codes_are_of_the_class_of_their_example():
    _, x, true = labeled(np.arange(12) % 3)
    found = latent_codes(experiment(), PARAMS, x, true)
    assert found.round_trip_rms < 1e-2
    # The flow of a Gaussian standardizes it.
    np.testing.assert_allclose(found.codes, (x - MEANS[true]) / STDS[true, None], atol=0.02)
    ends = found.between[0], found.between[-1]
    np.testing.assert_allclose(ends[0], x[0::2], atol=0.02)
    np.testing.assert_allclose(ends[1], x[1::2], atol=0.02)


def labeled(labels):
    rng = np.random.RandomState(0)
    true = np.arange(12) % 3
    x = (MEANS[true] + STDS[true, None] * rng.randn(12, 2)).astype(np.float32)
    return ArraySource(SourceInfo("three", (2,), None, 3), x, np.asarray(labels)), x, true


def test_the_likelihood_given_a_label_is_the_density_of_its_class():
    true = labeled(np.zeros(12, int))[2]
    for labels in (true, (true + 1) % 3):
        source, x, _ = labeled(labels)
        found = dataset_likelihood(experiment(), PARAMS, source)
        np.testing.assert_allclose(found.nats, log_density(x, labels), rtol=3e-3, atol=0.05)
    source, x, _ = labeled(np.full(12, -1))
    mixture = np.logaddexp.reduce([log_density(x, np.full(12, k)) for k in range(3)], axis=0) - np.log(3)
    np.testing.assert_allclose(dataset_likelihood(experiment(), PARAMS, source).nats, mixture, atol=0.05)


def test_the_bound_given_a_label_is_tight_for_its_class():
    source, x, true = labeled(np.arange(12) % 3)
    bound = dataset_bound(experiment(likelihood__bound_times=64), PARAMS, source)
    assert (np.abs(bound.nats + log_density(x, true)) < 5 * bound.std_error + 0.05).all()


def test_a_grid_has_a_row_for_each_class():
    made = experiment(conditioning__labels=(2, 0), sampling__first=3)
    labels = sampled_labels(made, 7, first=3)
    assert labels.tolist() == [0, 2, 0, 2, 0, 2, 0]
    place, columns = in_rows(labels)
    assert labels[place].tolist() == [0, 0, 0, 2, 2, 2] and columns == 3


REFUSED = {
    "an unknown class": (
        {"conditioning.labels": (1, 3, 7)},
        r"labels has 3, 7; expected classes from 0 to 2, the 3 of",
    ),
    "a scale without unconditional training": (
        {"conditioning.scale": 2.0, "conditioning.null_probability": 0.0},
        r"scale is 2, and with config.conditioning.null_probability=0 training never drops a label",
    ),
    "an interval the wrong way": (
        {"conditioning.scale": 2.0, "conditioning.guidance_interval": (2.0, 0.5)},
        r"guidance_interval is \(2.0, 0.5\); expected the lower ratio of noise and signal first",
    ),
    "another number of classes": (
        {"model.num_classes": 7},
        r"num_classes is 7, and toy:rings has 3 classes; expected 3",
    ),
    "a network without labels": (
        {"model.name": "vae", "objective.kind": "bound"},
        r"config.model.name=vae takes no labels; expected one of ncsnpp, ddpm, ",
    ),
    "labels of a run without classes": (
        {"conditioning.classes": False, "conditioning.labels": (1,)},
        r"labels is \(1,\), and the network knows no classes; expected a run that was trained with",
    ),
    "a scale of a run without classes": (
        {"conditioning.classes": False, "conditioning.scale": 3.0},
        r"scale is 3.0, and the network knows no classes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_for_is_one_sentence(case):
    changes, said = REFUSED[case]
    with pytest.raises(UserError, match=said):
        experiment(**{name.replace(".", "__"): value for name, value in changes.items()})


def test_a_network_that_always_knew_a_class_restores_nothing():
    config = experiment(conditioning__null_probability=0.0).settings
    with pytest.raises(UserError, match="null_probability is 0: training never drops a label, and images are restored"):
        Experiment.from_config(config, (2,), None, num_classes=3, purposes=("restore",))


def test_data_without_labels_are_refused():
    config = experiment().settings
    with pytest.raises(UserError, match=r"toy:rings has no labels; expected a toy of several parts"):
        Experiment.from_config(config, (2,), None, purposes=("train",))


def test_a_run_without_classes_is_as_if_the_data_had_none():
    config = experiment(conditioning__classes=False).settings
    key, batch = jax.random.key(0), jnp.ones((4, 2))
    programs = set()
    for num_classes in (None, 3):
        made = Experiment.from_config(config, (2,), None, num_classes=num_classes)
        params = jax.eval_shape(made.init_state).params
        assert made.num_classes == 0
        programs.add(str(jax.make_jaxpr(lambda p, made=made: made.loss(p, key, batch, train=True))(params)))
        programs.add(str(jax.make_jaxpr(lambda p, made=made: made.sampler(p, key, (4, 2), 0).y)(params)) + "sampler")
    assert len(programs) == 2
