"""Images drawn given observations: the numbers of exact draws, what a draw depends on, and bad input."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import load_config
from score_sde.data.given import Given, load_given
from score_sde.errors import UserError
from score_sde.evaluation.partial import Partial
from score_sde.evaluation.restoration import (
    Observations,
    draw_restorations,
    interval_of,
    observations_of,
    observed_of,
    quality,
    share_within,
    summary_of,
)
from score_sde.experiment import Experiment
from score_sde.labels import Guided
from score_sde.models.adapters import LinenClassifier
from tests.analytic import Gaussian

SHAPE = (4, 4, 1)
DENSITY = Gaussian.correlated(16, std=0.4)
FIELDS = {
    "model.channel_multipliers": "1",
    "sampling.predictor": "sde_dpm_solver_2m",
    "sampling.grid": "log_snr",
    "sampling.num_steps": 40,
    "conditioning.solve_steps": 16,
    "conditioning.noise_std": 0.2,
    "conditioning.data_std": 0.4,
}


class Exact:
    """A network that predicts the noise of the Gaussian."""

    def __init__(self, process):
        self.process, self.score = process, DENSITY.score(process)

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        t = condition / 999.0
        std = self.process.marginal(t).std[:, None]
        return (-std * self.score(x.reshape(len(x), 16), t)).reshape(x.shape)


def experiment_of(**changes):
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    config = load_config(None, [f"--config.{name}={value}" for name, value in fields.items()])
    experiment = Experiment.from_config(config, SHAPE, 17, purposes={"sample", "restore"})
    return dataclasses.replace(experiment, network=Exact(experiment.process))


SHIFTS = np.array([0.0, 0.6, -0.9])  # of the means of the classes


def log_densities(x, m, variance):
    """Of the classes at points with noise, up to what the classes share."""
    means = m[:, None] * (DENSITY.mean + SHIFTS[:, None])[None]
    coordinates = (x.reshape(len(x), 1, 16) - means) @ DENSITY.basis
    return -0.5 * jnp.sum(coordinates**2 / variance[:, None], axis=2)


class ExactOfClasses(Exact):
    """Of the Gaussian moved by the shift of a class, and of the mixture of all for none."""

    def apply(self, params, x, condition, *, label=None, key=None):
        m, variance = DENSITY.variances(self.process, condition / 999.0)
        index = jnp.full(len(x), -1) if label is None else label
        of_none = jax.nn.softmax(log_densities(x, m, variance))
        shares = jnp.where(index[:, None] < 0, of_none, jax.nn.one_hot(index, len(SHIFTS)))
        # The score of a class is linear, so that their mean is the score at a mean shift.
        shift = jnp.sum(shares * SHIFTS[None], axis=1) * m[:, 0]
        return super().apply(params, x - shift[:, None, None, None], condition)


@dataclasses.dataclass(frozen=True)
class Posterior(LinenClassifier):
    """The classes of points ``y = x / m``, from ``log(s / m)``."""

    def logits(self, params, x, condition):
        variance = DENSITY.eigenvalues[None] + jnp.exp(2.0 * condition)[:, None]
        return log_densities(x, jnp.ones((len(x), 1)), variance)


def experiment_of_classes(**changes):
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    fields |= {"conditioning.classes": True}
    config = load_config(None, [f"--config.{name}={value}" for name, value in fields.items()])
    experiment = Experiment.from_config(config, SHAPE, 17, num_classes=len(SHIFTS), purposes={"sample", "restore"})
    return dataclasses.replace(experiment, network=ExactOfClasses(experiment.process))


def truths(count, seed=0):
    return DENSITY.sample(count, seed=seed).reshape(count, *SHAPE).astype(np.float32)


def observed_with(experiment, truth, seed=1):
    """Observations of images of the law itself, which no gray levels have rounded."""
    seen, noise_std = observed_of(experiment), experiment.settings.conditioning.noise_std
    y = np.asarray(seen.operator(jnp.asarray(truth)))
    y = y + noise_std * np.random.RandomState(seed).randn(*y.shape).astype(np.float32)
    return seen, Observations(y if seen.known is None else y * np.asarray(seen.known), truth)


def drawn(experiment, seen, observed, params=None):
    x, _ = draw_restorations(experiment, params or {}, seen, observed, Partial()).columns()
    return x.reshape(len(observed.y), -1, *SHAPE)


def report_of(experiment, seen, observed, draws):
    found = [quality(experiment, seen, *each) for each in zip(observed.y, observed.truth, draws, strict=True)]
    return summary_of(found, experiment.settings.conditioning.noise_std)


def posterior_covariance(experiment, seen):
    basis = jnp.eye(16).reshape(16, *SHAPE)
    matrix = np.asarray(seen.operator(basis)).reshape(16, -1).T
    total = matrix @ DENSITY.covariance @ matrix.T + experiment.settings.conditioning.noise_std**2 * np.eye(len(matrix))
    return DENSITY.covariance - DENSITY.covariance @ matrix.T @ np.linalg.solve(total, matrix @ DENSITY.covariance)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("operator", ["mask", "downsample", "projection"])
def test_draws_of_the_posterior_have_the_error_the_residual_and_the_coverage_of_theory(operator):
    count = 60
    experiment = experiment_of(conditioning__operator=operator, conditioning__num_projections=5)
    seen, observed = observed_with(experiment, truths(count))
    draws = drawn(experiment, seen, observed)
    report = report_of(experiment, seen, observed, draws)
    assert abs(report["residual"] - 1.0) < 4.0 * report["residual_std_error"] + 0.01
    assert abs(report["coverage"] - interval_of(19)[1]) < 4.0 * report["coverage_std_error"]
    assert report["coverage_std_error"] < 0.015
    exact = np.trace(posterior_covariance(experiment, seen)) / 16
    for values, factor in ((draws.mean(axis=1), 1 + 1 / 19), (draws[:, 0], 2.0)):
        errors = np.mean((values - observed.truth) ** 2, axis=(1, 2, 3))
        assert abs(errors.mean() - factor * exact) < 4.5 * errors.std() / np.sqrt(count) + 0.02 * exact
    psnr = 10 * np.log10(4.0 / np.mean((draws.mean(axis=1) - observed.truth) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(report["psnr_mean"], psnr.mean(), rtol=1e-5)


@pytest.mark.parametrize("by", ["the network", "a classifier"])
def test_draws_given_a_class_are_of_the_posterior_of_the_class(by):
    """Images 0, 2, ... are of class 2, and 1, 3, ... of class 1: as the network or as a classifier knows them."""
    count, asked = 60, {"conditioning__labels": "2,1", "conditioning__draws": 19}
    if by == "the network":
        experiment, params = experiment_of_classes(**asked), {}
    else:
        experiment, params = experiment_of(**asked | {"conditioning__classifier": "anywhere"}), Guided({}, {})
        own = {"network": ExactOfClasses(experiment.process), "classifier": Posterior(nn.Dense(1), len(SHIFTS))}
        experiment = dataclasses.replace(experiment, **own)
    of_images = SHIFTS[np.resize([2, 1], count)].astype(np.float32)
    truth = truths(count) + of_images[:, None, None, None]
    seen, observed = observed_with(experiment, truth)
    draws = drawn(experiment, seen, observed, params)
    report = report_of(experiment, seen, observed, draws)
    assert abs(report["residual"] - 1.0) < 4.0 * report["residual_std_error"] + 0.01
    assert abs(report["coverage"] - interval_of(19)[1]) < 4.0 * report["coverage_std_error"]
    exact = np.trace(posterior_covariance(experiment, seen)) / 16
    errors = np.mean((draws.mean(axis=1) - truth) ** 2, axis=(1, 2, 3))
    assert abs(errors.mean() - (1 + 1 / 19) * exact) < 4.5 * errors.std() / np.sqrt(count) + 0.02 * exact


def test_images_are_of_no_class_unless_it_is_said():
    classes, none = experiment_of_classes(), experiment_of()
    none = dataclasses.replace(none, network=classes.network)
    seen, observed = observed_with(none, truths(2))
    found = [drawn(each, seen, observed) for each in (classes, none, experiment_of_classes(conditioning__labels="1"))]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[2] - found[1]).max() > 0.1


METHODS = {
    "mmps": {},
    "pigdm": {},
    "dps": {"sampling.num_steps": 60},
    "ddnm": {"conditioning.noise_std": 0.0},
    "repaint": {"conditioning.noise_std": 0.0, "sampling.predictor": "ancestral", "conditioning.num_repeats": 2},
    "daps": {"conditioning.flow_steps": 2},
    "tds": {"conditioning.num_particles": 8},
    "tds, of classes": {"conditioning.num_particles": 8, "conditioning.labels": "2,0,1"},
    "mmps, of classes": {"conditioning.labels": "2,0,1"},
    "mmps, adaptive": {"sampling.predictor": "adaptive_sde", "sampling.sde_rtol": 0.2, "sampling.sde_atol": 0.2},
}


def of_method(name, **changes):
    fields = {"conditioning.method": name.partition(",")[0], "conditioning.draws": 3, "sampling.num_steps": 10}
    fields |= METHODS[name] | changes
    return (experiment_of_classes if "of classes" in name else experiment_of)(**fields)


@pytest.mark.sweep
@pytest.mark.parametrize("name", METHODS)
def test_a_draw_depends_neither_on_its_batch_nor_on_the_numbers_of_draws_and_images(name):
    found = []
    for count, draws, batch_size in ((3, 3, 4), (5, 4, 64)):
        experiment = of_method(name, **{"conditioning.draws": draws, "sampling.batch_size": batch_size})
        seen, observed = observed_with(experiment, truths(5))
        observed = Observations(observed.y[:count], observed.truth[:count])
        found.append(drawn(experiment, seen, observed)[:3, :3])
    np.testing.assert_allclose(*found, atol=2e-4)
    assert np.abs(found[0][:, 0] - found[0][:, 1]).max() > 1e-2  # draws differ


@pytest.mark.parametrize("name", ["mmps", "ddnm", "repaint", "daps"])
def test_exact_observations_of_pixels_come_back(name):
    experiment = of_method(name, **{"conditioning.noise_std": 0.0, "sampling.num_steps": 20})
    seen, observed = observed_with(experiment, truths(2))
    known = np.asarray(seen.known)
    draws = drawn(experiment, seen, observed)
    difference = np.abs(draws - observed.y[:, None])[..., known.astype(bool)]
    assert difference.max() < 0.01
    report = report_of(experiment, seen, observed, draws)
    assert report["misfit"] < 0.01 and "residual" not in report


def test_an_image_is_observed_as_it_is_whatever_the_number_of_images():
    experiment = experiment_of(conditioning__noise_std=0.3)
    levels = np.random.RandomState(0).randint(0, 17, (9, *SHAPE))
    seen = observed_of(experiment)
    y, truth = observations_of(experiment, seen, Given(levels))
    np.testing.assert_array_equal(experiment.quantization.quantize(truth), levels)
    known = np.asarray(seen.known)
    noise = (y - truth)[:, known]
    assert not y[:, ~known].any() and 0.2 < noise.std() < 0.4
    first = observations_of(experiment, seen, Given(levels[:4]))
    np.testing.assert_array_equal(first.y, y[:4])
    another = experiment_of(conditioning__noise_std=0.3, sampling__seed=7)  # another seed of draws, the same noise
    np.testing.assert_array_equal(observations_of(another, seen, Given(levels)).y, y)


WRONG = {
    "noisy ddnm": ({"conditioning.method": "ddnm"}, "conditioning.noise_std is 0.2; expected 0, since ddnm takes"),
    "noisy repaint": ({"conditioning.method": "repaint"}, "noise_std is 0.2; expected 0, since repaint holds"),
    "exact dps": ({"conditioning.method": "dps", "conditioning.noise_std": 0.0}, "expected a number above 0"),
    "exact tds": ({"conditioning.method": "tds", "conditioning.noise_std": 0.0}, "expected a number above 0"),
    "repaint of a blur": (
        {"conditioning.method": "repaint", "conditioning.noise_std": 0.0, "conditioning.operator": "blur"},
        "holds known pixels, and config.conditioning.operator=blur shows none",
    ),
    "repaint by adaptive steps": (
        {"conditioning.method": "repaint", "conditioning.noise_std": 0.0, "sampling.predictor": "adaptive_sde"},
        "predictor=adaptive_sde chooses its own; expected a predictor of fixed steps",
    ),
    "a factor": (
        {"conditioning.operator": "downsample", "conditioning.factor": 3},
        "operator is downsample: factor is 3, and images are 4 x 4; expected a divisor",
    ),
    "a classifier and no classes": (
        {"conditioning.classifier": "anywhere"},
        r"labels is \(\): images are restored as of no class; expected their classes in",
    ),
    "gray images": ({"conditioning.operator": "grey"}, "operator is grey: Images of shape .* are gray already"),
    "directions": (
        {"conditioning.operator": "projection", "conditioning.num_projections": 17},
        "operator is projection: count is 17; expected a whole number from 1 to 16",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_go_together_is_told(name):
    changes, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        observed_of(experiment_of(**changes))


def test_points_have_no_pixels_to_restore():
    config = load_config(None, ["--config.data.name=toy:moons", "--config.model.name=mlp"])
    experiment = Experiment.from_config(config, (2,), None, purposes={"sample", "restore"})
    with pytest.raises(UserError, match=r"data.name is toy:moons, which is of points; expected images"):
        observed_of(experiment)


GIVEN = {
    "another shape": ({"y": np.zeros((2, 4, 4, 3))}, r"y of shape \(2, 4, 4, 3\); expected \(2, 4, 4, 1\), as"),
    "bytes": ({"y": np.full((2, *SHAPE), 255.0)}, "observations y from 255 to 255; expected -1 to 1, the range"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_observations_that_cannot_be_are_told(name, tmp_path):
    arrays, message = GIVEN[name]
    np.savez(tmp_path / "y.npz", **arrays)
    experiment = experiment_of(conditioning__images=tmp_path / "y.npz")
    seen, given = observed_of(experiment), load_given(str(tmp_path / "y.npz"), SHAPE, 17)
    with pytest.raises(UserError, match=message):
        observations_of(experiment, seen, given)


def test_nothing_is_asked_of_values_where_nothing_is_known(tmp_path):
    experiment = experiment_of()
    seen = observed_of(experiment)
    y = np.where(np.asarray(seen.known), 0.5, 77.0).astype(np.float32)[None]
    found = observations_of(experiment, seen, Given(None, y, None))
    assert found.truth is None and set(np.unique(found.y)) == {0.0, 0.5}


def test_images_are_observed_and_compared_as_the_network_saw_them():
    experiment = experiment_of(objective__levels="midpoints", conditioning__noise_std=0.0)
    levels, seen = np.random.RandomState(0).randint(17, size=(3, *SHAPE)), observed_of(experiment)
    observed = observations_of(experiment, seen, Given(levels))
    np.testing.assert_allclose(observed.truth, experiment.quantization.midpoints(jnp.asarray(levels)), atol=1e-6)
    # Draws that know the image but for rounding hold it as often as draws of any law do.
    rounded = observed.truth[:, None] + 1e-4 * np.random.RandomState(1).randn(3, 19, *SHAPE)
    assert report_of(experiment, seen, observed, rounded)["coverage"] == pytest.approx(interval_of(19)[1])
    other = np.asarray(experiment.quantization.midpoints(jnp.asarray((levels + 3) % 17)))[:, None].repeat(19, axis=1)
    assert report_of(experiment, seen, observed, other)["coverage"] == 0.0


@pytest.mark.parametrize("law", ["cauchy", "binary", "levels", "certain"])
def test_the_coverage_of_an_interval_is_what_it_says(law):
    """Of draws and truth of one law, whatever the law: counted over many."""
    rng, count = np.random.RandomState(0), 20_000
    draw = {
        "cauchy": rng.standard_cauchy,
        "binary": lambda size: rng.binomial(1, 0.02, size),
        "levels": lambda size: rng.poisson(3.0, size),
        "certain": np.zeros,
    }[law]
    for draws in (2, 19, 30):
        nominal = interval_of(draws)[1]
        inside = share_within(draw((draws, count)), draw(count))
        assert abs(inside.mean() - nominal) < 4.5 * 0.5 / np.sqrt(count)
        assert abs(nominal - 0.9) <= 1.0 / (draws + 1) or draws == 2
    # Draws that are sure of something else hold nothing.
    assert not share_within(np.ones((19, 3)), np.array([0.0, 2.0, 3.0])).any()
