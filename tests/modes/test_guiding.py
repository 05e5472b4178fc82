"""A classifier of noisy data: its loss, its training from the command line, and samples that it guides to classes."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_sde
from score_sde.cli import main
from score_sde.conditioning.noisy_classes import ClassLogProb, noisy_class_loss
from score_sde.data.toys import GAUSSIANS_RADIUS, GAUSSIANS_STD
from score_sde.errors import UserError
from score_sde.evaluation.samples import draw_samples
from score_sde.fields import DEFAULTS
from score_sde.labels import Guided, Labeled
from score_sde.models.adapters import LinenClassifier
from score_sde.modes import MODES
from score_sde.sdes import VE, VP
from score_sde.validation import purposes_of
from tests.evaluation.test_sample_mode import TINY as IMAGES
from tests.test_classes import MEANS, PARAMS, STDS, experiment

LOOP = {
    **{"classifier.batch_size": 8, "classifier.num_steps": 4, "classifier.log_every": 1, "classifier.eval_every": 2},
    **{"classifier.checkpoint_every": 2, "classifier.warmup": 1, "classifier.levels": 3, "classifier.widening": 1},
    **{"classifier.num_blocks": 1, "likelihood.batch_size": 5000},
}
POINTS = {
    **{"data.name": "toy:rings", "model.name": "mlp", "model.features": 8, "model.num_blocks": 1},
    **{"training.num_steps": 2, "training.batch_size": 8, "training.log_every": 1, "training.eval_every": 2},
    **{"training.checkpoint_every": 2, "sampling.predictor": "ddim", "sampling.num_steps": 8},
    **{"sampling.num_samples": 9, "sampling.batch_size": 9, **LOOP},
}


@dataclasses.dataclass(frozen=True)
class Posterior(LinenClassifier):
    """The classes of three Gaussians, given points with noise."""

    def logits(self, params, x, condition):
        variance = STDS[None] ** 2 + jnp.exp(2.0 * condition)[:, None]
        return -0.5 * jnp.sum((x[:, None] - MEANS[None]) ** 2, axis=2) / variance - jnp.log(variance)


EXACT = Posterior(nn.Dense(1), 3)


def exact_logits(x, condition):
    return EXACT.logits({}, x, condition)


@pytest.mark.sweep
@pytest.mark.parametrize("changes", [{}, {"sampling__predictor": "adaptive"}, {"sde__schedule": "linear"}])
def test_an_exact_classifier_guides_a_score_without_classes_to_the_law_of_each(changes):
    changes = {"sampling__predictor": "ddim", "sampling__num_steps": 60, "objective__t_min": 0.001} | changes
    count = {"sampling__num_samples": 600, "sampling__batch_size": 300}
    made = dataclasses.replace(
        experiment(conditioning__classes=False, **changes | count), classifier=EXACT, num_classes=0
    )
    x = draw_samples(made, Guided(PARAMS, jnp.zeros(()))).x
    for label in range(3):
        mine = x[label::3]
        np.testing.assert_allclose(mine.mean(axis=0), MEANS[label], atol=6 * STDS[label] / np.sqrt(len(mine)))
        np.testing.assert_allclose(mine.std(axis=0), STDS[label], rtol=0.25)


def test_no_classifier_has_a_lower_loss_than_the_posterior_and_examples_of_no_class_cost_nothing():
    label = jnp.arange(600) % 3
    noise = jax.random.normal(jax.random.key(0), (600, 2))
    x = jnp.asarray(MEANS, jnp.float32)[label] + jnp.asarray(STDS, jnp.float32)[label, None] * noise
    loss = noisy_class_loss(lambda tilt: lambda x, c: exact_logits(x, c) + tilt[None], VP(), t_min=1e-3)

    def mean(tilt, labels=label):
        return jnp.mean(loss(tilt, jax.random.key(1), Labeled(x, labels), train=True))

    for tilt in jnp.array([[0.7, 0.0, 0.0], [0.0, -0.7, 0.0], [0.3, 0.0, 0.6]]):
        assert mean(tilt) > mean(jnp.zeros(3)) > 0.1
    assert mean(jnp.ones(3), jnp.full(600, -1)) == 0.0
    assert not jax.grad(mean)(jnp.zeros(3), jnp.full(600, -1)).any()


def test_the_class_of_noisy_data_depends_on_the_ratio_of_noise_and_signal_alone():
    y, label, ve = jax.random.normal(jax.random.key(0), (5, 2)), jnp.arange(5) % 3, VE(sigma_min=1e-3)
    t = jnp.linspace(0.1, 0.9, 5)
    mean_coeff, std = VP().marginal(t)
    other = ve.inverse_log_snr(VP().log_snr(t))
    np.testing.assert_allclose(ve.marginal(other).std, std / mean_coeff, rtol=1e-3)
    found = [
        ClassLogProb(exact_logits, VP(), label)(mean_coeff[:, None] * y, t),
        ClassLogProb(exact_logits, ve, label)(y, other),
    ]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)


def test_a_label_that_is_no_class_guides_to_none():
    """Not to the last class, which a negative index would find."""
    x, t = jnp.zeros((2, 2)), jnp.array([0.3, 0.5])
    for label in (jnp.array([-1, 0]), jnp.array([1, 3])):
        with pytest.raises(UserError, match=r"The labels lie between .*; expected 0 to 2, the classes"):
            ClassLogProb(exact_logits, VP(), label)(x, t)
        found = jax.jit(lambda label: ClassLogProb(exact_logits, VP(), label)(x, t))(label)
        np.testing.assert_array_equal(np.isnan(found), (label < 0) | (label > 2))
    with pytest.raises(UserError, match="There are 3 labels for a batch of 2"):
        ClassLogProb(exact_logits, VP(), jnp.arange(3))(x, t)
    with pytest.raises(UserError, match="without labels; expected Labeled"):
        noisy_class_loss(lambda tilt: exact_logits, VP(), t_min=1e-3)({}, jax.random.key(0), x, train=True)


def run(mode, workdir, *flags, base=POINTS, config="configs/default.py", **changes):
    fields = base | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--mode={mode}", f"--config={config}", f"--workdir={workdir}", *flags, *overrides])


def report(place, name="classifier"):
    return json.loads((place / f"{name}.json").read_text())


@pytest.mark.slow
def test_accuracy_falls_from_bayes_own_at_no_noise_to_chance(tmp_path):
    learned = {"classifier__num_steps": 500, "classifier__batch_size": 128, "classifier__lr": 0.01}
    often = {"classifier__log_every": 5, "classifier__eval_every": 500, "classifier__checkpoint_every": 500}
    size = {"classifier__widening": 4, "classifier__num_blocks": 2, "classifier__levels": 6, "optim__ema_warmup": True}
    assert run("train_classifier", tmp_path, data__name="toy:gaussians", **learned, **often, **size) == 0
    levels, rng = report(tmp_path)["levels"], np.random.RandomState(0)
    angle = np.pi / 4 * np.arange(8)
    centers = GAUSSIANS_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    part = np.arange(40_000) % 8
    for level in levels:
        x = centers[part] + np.hypot(GAUSSIANS_STD, np.exp(level["log_noise"])) * rng.randn(len(part), 2)
        bayes = np.mean(np.argmin(((x[:, None] - centers) ** 2).sum(axis=2), axis=1) == part)
        assert bayes - 0.15 < level["accuracy"] < bayes + 0.02, level
    assert levels[-1]["accuracy"] > 0.85 and levels[0]["accuracy"] < 0.16
    assert (tmp_path / "classifier.png").exists()


#: Numbers of the samples in the results of every mode that draws them.
DRAWN = {
    "sample": lambda place: np.load(place / "samples.npz")["samples"].ravel().tolist(),
    "eval": lambda place: [found["value"] for found in metrics_in(report(place, "evaluation")).values()],
    "pareto": lambda place: [point["distance"] for point in report(place, "pareto")["points"]],
}


def metrics_in(evaluation):
    return evaluation["checkpoints"][0]["metrics"]


def test_all_modes_that_draw_samples_are_known_here():
    settings = DEFAULTS.with_("evaluation", num_samples=9)
    drawing = {mode for mode in MODES if purposes_of(mode, settings) & {"sample", "pareto"}}
    # The demo draws by the function of another mode; images are restored in tests/evaluation/test_restoration.py.
    assert drawing == {*DRAWN, "demo", "restore"}


@pytest.mark.sweep(9)
@pytest.mark.parametrize("mode", DRAWN)
def test_a_classifier_guides_the_samples_of_every_mode(mode, trained, tmp_path):
    asked = {"conditioning__classifier": trained, "conditioning__labels": "(2,)", "sampling__num_steps": 4}
    few = {"evaluation__num_samples": 40, "evaluation__reference_examples": 60, "evaluation__keep_features": 50}
    few |= {"pareto__num_samples": 12, "pareto__evals": "5", "pareto__grids": "log_snr", "pareto__solvers": "ddim"}
    found = {}
    for name, changes in {
        "plain": {},
        "off": asked | {"conditioning__classifier_scale": 0.0},
        "on": asked | {"conditioning__classifier_scale": 100.0},
    }.items():
        assert run(mode, trained, f"--out={tmp_path / name}", **few, **changes) == 0
        found[name] = DRAWN[mode](tmp_path / name)
    moved = {name: np.abs(np.subtract(found[name], found["plain"])).max() for name in ("off", "on")}
    assert moved["on"] > 1e-3 and moved["off"] < 0.1 * moved["on"]  # off is off to rounding
    # The same command in the same place measures the other samples too.
    assert run(mode, trained, f"--out={tmp_path / 'off'}", **few, **asked, conditioning__classifier_scale=100.0) == 0
    assert DRAWN[mode](tmp_path / "off") == found["on"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run without classes, with a classifier in its directory."""
    workdir = tmp_path_factory.mktemp("guided") / "run"
    assert run("train", workdir) == run("train_classifier", workdir) == 0
    assert "Its accuracy at the lowest noise" in (workdir / "summary.md").read_text()  # the page of the run, renewed
    return workdir


def test_training_goes_on_to_the_bits_of_one_left_alone(trained, tmp_path):
    assert run("train_classifier", tmp_path, classifier__num_steps=2) == 0
    assert run("train_classifier", tmp_path) == 0
    for name in ("classifier_parameters", "levels", "cross_entropy"):
        assert report(tmp_path)[name] == report(trained)[name]
    assert not (tmp_path / "config.json").exists()  # it is no run of a score
    assert run("train_classifier", tmp_path, classifier__batch_size=16) == 2


@pytest.mark.slow
def test_samples_of_a_run_without_classes_are_guided_to_the_classes_that_are_asked_for(trained, tmp_path):
    def drawn(name, **changes):
        assert run("sample", trained, f"--out={tmp_path / name}", **changes) == 0
        with np.load(tmp_path / name / "samples.npz") as file:
            return dict(file)

    asked = {"conditioning__classifier": trained, "conditioning__labels": "(2,0)"}
    plain, off, guided = drawn("plain"), drawn("off", **asked, conditioning__classifier_scale=0.0), drawn("on", **asked)
    assert guided["labels"].tolist() == [2, 0, 2, 0, 2, 0, 2, 0, 2] and "labels" not in plain
    np.testing.assert_array_equal(off["samples"], plain["samples"])
    assert not (guided["samples"] == plain["samples"]).all()
    found = report(tmp_path / "on", "sampling")
    assert (found["classes"], found["classifier_scale"]) == ([2, 0], 1.0) and "scale" not in found
    assert "of classes 2, 0 by a classifier times 1" in (tmp_path / "on" / "summary.md").read_text()


def test_a_model_in_a_notebook_is_guided_by_the_classifier_of_its_run(trained):
    model, key = score_sde.load(trained), jax.random.key(0)

    def guided(**changes):
        fields = {f"conditioning.{name}": value for name, value in {"classifier": str(trained), **changes}.items()}
        settings = model.experiment.settings.with_fields(fields)
        return dataclasses.replace(
            model, experiment=dataclasses.replace(model.experiment, settings=settings), _programs={}
        )

    off, on = (guided(classifier_scale=scale, labels=(2,)) for scale in (0.0, 100.0))
    plain, unmoved, moved = (each.sample(key, 3, steps=4) for each in (model, off, on))
    np.testing.assert_allclose(unmoved, plain, atol=1e-4)
    assert np.abs(moved - plain).max() > 1e-3
    asked = guided(classifier_scale=100.0)
    np.testing.assert_array_equal(asked.sample(key, 3, steps=4, labels=2), moved)
    assert np.abs(asked.sample(key, 3, steps=4, labels=[2, 1, 0])[1:] - moved[1:]).max() > 1e-3
    for labels in (-1, 4):
        with pytest.raises(UserError, match="expected classes from 0 to 3: one, or 3"):
            asked.sample(key, 3, labels=labels)
    with pytest.raises(UserError, match="knows no classes; leave labels out"):
        model.sample(key, 3, labels=2)


def test_what_cannot_guide_is_one_message(trained, tmp_path, capsys):
    other = tmp_path / "other"
    for mode, place, changes, said in (
        (
            "sample",
            trained,
            {"conditioning__classifier": tmp_path / "none"},
            "there is no trained classifier; train one",
        ),
        (
            "sample",
            trained,
            {"conditioning__classifier": trained, "conditioning__labels": "(9,)"},
            "labels has 9; expected",
        ),
        ("train_classifier", other, {"data__name": "toy:swissroll"}, "toy:swissroll has no labels"),
        ("train_classifier", trained, {"classifier__lr": 0.5}, "differs from that of the classifier in"),
        (
            "train_classifier",
            other,
            {"classifier__log_every": 3},
            "config.classifier.eval_every is 2; expected a multiple",
        ),
    ):
        assert run(mode, place, f"--out={tmp_path}/x" if mode == "sample" else "--config.seed=42", **changes) == 2, said
        message = capsys.readouterr().err
        assert said in message and "Traceback" not in message
    known = json.loads((trained / "classifier" / "classes.json").read_text())
    folder = tmp_path / "shape" / "classifier"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((trained / "classifier" / "config.json").read_text())
    (folder / "classes.json").write_text(json.dumps(known | {"shape": [8, 8, 1]}))
    assert run("sample", trained, f"--out={tmp_path}/x", conditioning__classifier=folder.parent) == 2
    assert "knows other data than the run: shape [8, 8, 1], not [2]" in capsys.readouterr().err


@pytest.mark.slow
def test_noisy_images_are_classified_too(tmp_path):
    few = LOOP | {"likelihood.batch_size": 100}
    assert run("train_classifier", tmp_path, base=IMAGES | few, config="configs/vp/digits_ddpmpp.py") == 0
    assert len(report(tmp_path)["levels"]) == 3 and report(tmp_path)["num_classes"] == 10


def test_samples_that_a_classifier_would_not_guide_are_refused():
    """As by code that reads the configuration and does not load the classifier."""
    asked = experiment(**{"conditioning.classes": False, "conditioning.classifier": "anywhere"})
    with pytest.raises(UserError, match="classifier is anywhere, and it was not loaded: expected the run and"):
        draw_samples(asked, PARAMS)
