"""Training from arrays: the law that is learned, the units of the data, and a directory that is trained further."""

import logging

import jax
import jaxtyping
import numpy as np
import pytest

import score_sde
from score_sde.chains import DDPM
from score_sde.errors import UserError
from score_sde.notebook.fitting import _told

SMALL = {"model.features": 32, "model.num_blocks": 1}
STD, CORRELATION = np.array([3.0, 0.02]), 0.8
COVARIANCE = np.diag(STD) @ np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]) @ np.diag(STD)
MEAN = np.array([50.0, -1.0])


def gaussian(n, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=n)


def exact(x):
    centered = x - MEAN
    quadratic = np.einsum("ni,ij,nj->n", centered, np.linalg.inv(COVARIANCE), centered)
    return -0.5 * (quadratic + np.linalg.slogdet(2.0 * np.pi * COVARIANCE)[1])


def fit(data, **options):
    changes = SMALL | options.pop("config", {})
    return score_sde.fit(data, **{"progress": False, "config": changes, **options})


@pytest.fixture(scope="module")
def model():
    return fit(gaussian(2000), steps=800, config={"optim.lr": 3e-3})


def test_the_likelihood_of_a_gaussian_is_its_density(model, key):
    """The units differ by a factor of 150, and the correlation is worth half a nat, which no scaling gives."""
    x = gaussian(400, seed=1)
    found = model.log_likelihood(key, x)
    assert found.success.all()
    difference = found.logp - exact(x)
    assert abs(difference.mean()) < 0.06
    assert np.abs(difference).mean() < 0.12
    mean, error = found.mean
    assert mean == pytest.approx(found.logp.mean()) and 0.0 < error < 0.1


@pytest.mark.slow
def test_the_budget_of_a_likelihood_is_in_nats_and_finds_no_probes_where_the_trace_is_exact(model, key):
    found = model.log_likelihood(key, gaussian(64, seed=1))
    assert found.budget.probes == 0.0
    assert abs(found.budget.solver.mean) < 0.01
    assert found.budget.images == pytest.approx(found.mean[1])


def test_samples_have_the_moments_of_the_data(model, key):
    x = model.sample(key, 2000)
    assert np.allclose(x.mean(axis=0), MEAN, atol=0.1 * STD)
    assert np.allclose(x.std(axis=0) / STD, 1.0, atol=0.1)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(CORRELATION, abs=0.06)


def test_a_sample_depends_on_its_key_and_number_alone(model, key):
    assert np.allclose(model.sample(key, 5)[3:], model.sample(key, 2, first=3), rtol=1e-4)  # but for rounding


def test_the_score_is_the_gradient_of_the_density_in_the_units_of_the_data(model):
    """Noise keeps the place of the data, so that the score of a Gaussian is linear about its mean."""
    x = gaussian(200, seed=2).astype(np.float32)
    score = np.asarray(model.score(x, 0.3))
    m, s = model.experiment.sde.marginal(jax.numpy.float32(0.3))
    noisy = float(m) ** 2 * COVARIANCE + float(s) ** 2 * np.diag(STD**2)
    wanted = -(x - MEAN) @ np.linalg.inv(noisy)
    assert np.abs((score - wanted) * STD).mean() < 0.25 * np.abs(wanted * STD).mean()


@pytest.mark.slow
def test_decoding_inverts_encoding_to_the_tolerance_of_the_solver(model):
    x = gaussian(20, seed=3)
    codes = model.encode(x)
    assert 0.5 < codes.std() < 1.5
    assert np.abs((model.decode(codes) - x) / STD).max() < 0.02


def test_draws_given_an_observation_have_the_law_of_the_posterior(model, key):
    """The second coordinate is seen with noise, in its own units; the first follows by the correlation."""
    noise_std, seen = 0.01, MEAN[1] + 0.03
    y = np.full((1500, 1), seen)
    x = model.restore(key, y, lambda x: x[:, 1:], noise_std=noise_std, iterations=1, steps=40)
    gain = COVARIANCE[:, 1] / (COVARIANCE[1, 1] + noise_std**2)
    mean, variance = MEAN + gain * (seen - MEAN[1]), COVARIANCE.diagonal() - gain * COVARIANCE[:, 1]
    assert np.abs((x.mean(axis=0) - mean) / STD).max() < 0.1
    assert np.allclose(x.std(axis=0), np.sqrt(variance), rtol=0.15)


@pytest.mark.slow
def test_data_in_other_units_have_the_log_determinant_more(key):
    """A power of two is exact in floating point, so that nothing else changes."""
    x = gaussian(300)
    one, other = fit(x, steps=2), fit(1024.0 * x, steps=2)
    given = gaussian(10, seed=1)
    ours, theirs = (model.log_likelihood(key, z).logp for model, z in ((one, given), (other, 1024.0 * given)))
    assert np.allclose(ours - theirs, 2.0 * np.log(1024.0), atol=1e-4)
    assert np.allclose(1024.0 * one.sample(key, 4), other.sample(key, 4), rtol=1e-6)


def test_a_directory_goes_on_to_the_bits_of_an_uninterrupted_training(tmp_path):
    x, kept = gaussian(100), {"training.checkpoint_every": 50}
    whole = fit(x, steps=100, config=kept)
    fit(x, steps=50, config=kept, directory=tmp_path / "run")
    again = fit(x, steps=100, config=kept, directory=tmp_path / "run")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole.params, again.params))
    assert again.step == 100
    with pytest.raises(UserError, match="contents of the train split"):
        fit(gaussian(100, seed=5), steps=100, config=kept, directory=tmp_path / "run")


@pytest.mark.slow
def test_the_probabilities_of_gray_levels_are_at_most_one_together(key):
    """By Jensen's inequality, and hardly less where the density is flat within a bin."""
    levels = np.random.default_rng(0).choice(4, p=[0.1, 0.4, 0.3, 0.2], size=(2000, 1))
    model = fit(levels, steps=400, num_levels=4, config={"optim.lr": 3e-3})
    found = model.log_likelihood(key, np.repeat(np.arange(4), 200)[:, None])
    assert 0.8 < np.exp(found.logp.reshape(4, 200).mean(axis=1)).sum() < 1.02
    assert found.bits_per_dim.mean() == pytest.approx(-found.logp.mean() / np.log(2.0))
    x = model.sample(key, 100)
    assert x.dtype == np.uint8 and set(np.unique(x)) == {0, 1, 2, 3}
    assert np.array_equal(model.decode(model.encode(levels[:5])), levels[:5])


@pytest.mark.slow
def test_labels_condition_samples_and_likelihoods(key):
    x = np.random.default_rng(0).normal(size=(600, 1)) * 0.1
    labels = (np.arange(600) % 2).astype(np.int32)
    model = fit(x + 4.0 * labels[:, None], labels=labels, steps=200)
    low, high = (model.sample(key, 40, labels=label) for label in (0, 1))
    assert low.mean() < 1.0 and high.mean() > 3.0
    assert np.array_equal(model.sample(key, 4, labels=[0, 1, 0, 1]), model.sample(key, 4))
    right, wrong = (model.log_likelihood(key, x[:20], labels=label).logp.mean() for label in (0, 1))
    assert right > wrong + 1.0
    with pytest.raises(UserError, match="give labels"):
        model.log_likelihood(key, x[:20])
    with pytest.raises(UserError, match="classes from 0 to 1"):
        model.sample(key, 2, labels=2)


WRONG = {
    "nan": (np.array([[0.0], [np.nan], [1.0]]), {}, "NaN or infinity in 1 of 3 examples, the first of them number 1"),
    "rank": (np.zeros(5), {}, r"shape \(5,\); expected \(examples, \*event\)"),
    "empty": (np.zeros((0, 2)), {}, "at least one example"),
    "one example": (np.zeros((1, 2)), {}, "at least 2"),
    "text": (np.array([["a"]]), {}, "floats or of whole numbers"),
    "levels": (np.full((4, 2), 300), {}, r"from 300 to 300; expected gray levels, whole numbers from 0 to 255"),
    "constant": (np.ones((40, 2)), {}, "constant"),
    "labels": (np.zeros((4, 2)), {"labels": [0, 1]}, "expected 4 whole numbers"),
    "field": (np.eye(4), {"config": {"optim.lrr": 1.0}}, "Did you mean 'optim.lr'"),
    "value": (np.eye(4), {"config": {"optim.lr": -1.0}}, "config.optim.lr is -1"),
    "network": (gaussian(9), {"network": 3}, "network is, or makes, a int; expected a Linen module"),
    "process": (
        gaussian(9),
        {"process": DDPM(betas=jax.numpy.full(4, 0.1))},
        "process is a DDPM; expected VP, SubVP, VE",
    ),
    "process by name": (gaussian(9), {"process": "vpp"}, "Did you mean 'vp'"),
    "held out": (np.eye(4), {"held_out": np.eye(3)}, "held_out is"),
    "masked": (np.ma.masked_greater(np.eye(4), 0.5), {}, "data is a masked array, of whose numbers 4 are hidden"),
    "masked labels": (np.eye(3), {"labels": np.ma.masked_equal([0, 1, 0], 1)}, "labels is a masked array"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_refused_by_what_is_wrong_with_them(case):
    data, options, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        fit(data, steps=2, **options)


def test_data_to_measure_are_of_the_shape_and_the_kind_of_the_data(model, key):
    for given, message in ((np.zeros((2, 3)), r"shape \(3,\); expected \(2,\)"), (np.full((2, 2), np.inf), "infinity")):
        with pytest.raises(UserError, match=message):
            model.log_likelihood(key, given)
    with pytest.raises(UserError, match=r"z has shape \(2, 3\)"):
        model.decode(np.zeros((2, 3)))
    with pytest.raises(UserError, match="Did you mean 'heun'"):
        model.sample(key, 1, solver="huen")
    with pytest.raises(UserError, match="tolerance"):
        model.log_likelihood(key, np.zeros((2, 2)), tolerance=7.0)


MISUSED = {
    "half a sample": (lambda m, key: m.sample(key, 2.5), "n is 2.5; expected a whole number of at least 1"),
    "no sample": (lambda m, key: m.sample(key, 0), "n is 0"),
    "first": (lambda m, key: m.sample(key, 1, first=-1), "first is -1; expected a whole number from 0"),
    "seed": (lambda m, key: m.sample(0, 1), "The key is of type int"),
    "keys": (lambda m, key: m.log_likelihood(jax.random.split(key), np.eye(2)), r"array of keys of shape \(2,\)"),
    "no time": (lambda m, key: m.score(np.eye(2), 0.0), "t is 0.0; expected times above 0, at most 1"),
    "late": (lambda m, key: m.score(np.eye(2), np.array([0.5, 1.5])), "expected times above 0, at most 1"),
    "times": (lambda m, key: m.score(np.eye(2), np.ones(3)), r"t has shape \(3,\); expected a time for all .* or 2"),
    "columns": (lambda m, key: m.score(np.eye(3), 0.5), r"x has shape \(3, 3\); expected \(n, 2\)"),
    "hidden": (lambda m, key: m.encode(np.ma.masked_less(np.eye(2), 0.5)), "2 are hidden"),
    "jit": (lambda m, key: jax.jit(lambda key: m.sample(key, 1))(key), "Model.sample is called under jit, vmap or"),
    "vmap": (lambda m, key: jax.vmap(m.encode)(np.ones((2, 1, 2))), "Model.encode is called under jit, vmap or"),
}


@pytest.fixture
def annotations_unchecked():
    """As outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("case", MISUSED)
def test_calls_that_mean_nothing_are_refused_and_leave_the_model_as_it_was(model, key, case):
    """What is compiled for one call serves later ones: a number of samples that is none must not decide it."""
    call, message = MISUSED[case]
    with pytest.raises(UserError, match=message):
        call(model, key)
    assert model.sample(key, 3).shape == (3, 2)


def test_the_score_can_be_traced_at_any_times(model):
    x = np.full((2, 2), MEAN, np.float32)
    traced = jax.jit(lambda t: model.score(x, t))(np.array([0.5, 0.0]))
    np.testing.assert_allclose(traced[0], model.score(x[:1], 0.5)[0], rtol=1e-4)


def test_progress_is_told_once_though_other_libraries_set_up_logging(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for _ in range(2):
        with _told(True):
            logging.basicConfig()
            logging.getLogger("score_sde.test").info("a step")
    assert capsys.readouterr().err == "a step\na step\n"


@pytest.mark.slow
def test_an_interrupted_fit_gives_the_model_so_far(monkeypatch):
    from score_sde.training import loop

    class Interrupted(loop.Preemption):
        def requested(self):
            self.interrupted = True
            return True

    monkeypatch.setattr(loop, "Preemption", Interrupted)
    assert fit(gaussian(50), steps=100).step == 1
