"""A run on labels, from the command line: trained, resumed, sampled, measured, and its data known by their labels."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import main
from score_sde.config import default_config
from score_sde.data.sources import DIGITS_INFO
from score_sde.evaluation.metrics import Points, SampleFeatures
from score_sde.evaluation.record import EvaluationRecord
from score_sde.experiment import Experiment
from score_sde.labels import Labeled
from score_sde.likelihood import UniformDequantizer
from score_sde.modes.dequantizer import dequantizer_loss
from score_sde.modes.evaluating import _Evaluation
from score_sde.report.quantities import quantities_of
from tests.evaluation.test_results import check_described

TINY = {
    **{"data.name": "toy:rings", "model.name": "mlp", "model.features": 8, "model.num_blocks": 1},
    **{"conditioning.classes": True, "training.num_steps": 4, "training.batch_size": 8, "training.log_every": 1},
    **{"training.eval_every": 2, "training.checkpoint_every": 2, "optim.warmup": 1, "optim.ema_rate": 0.5},
    **{"sampling.num_steps": 10, "sampling.num_samples": 9, "sampling.batch_size": 9},
    **{"likelihood.num_examples": 8, "likelihood.batch_size": 8, "likelihood.num_steps": 6},
    **{"likelihood.noise_levels": 2, "likelihood.budget_examples": 2, "likelihood.bound_times": 2},
}


def run(mode, workdir, *overrides, **changes):
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--mode={mode}", "--config=configs/default.py", f"--workdir={workdir}", *flags, *overrides])


def sample(workdir, *overrides, mode="sample"):
    """A mode on a run, with the configuration of its record."""
    return main([f"--mode={mode}", f"--workdir={workdir}", *overrides])


def parameters(workdir):
    assert sample(workdir, "--config.sampling.num_samples=1", f"--out={workdir}/out") == 0
    return json.loads((workdir / "out" / "sampling.json").read_text())["parameters"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classes") / "run"
    assert run("train", workdir) == 0
    return workdir


@pytest.mark.slow
def test_a_run_records_its_classes_and_goes_on_to_the_bits_of_one_left_alone(trained, tmp_path, caplog):
    assert json.loads((trained / "data.json").read_text())["num_classes"] == 4
    assert run("train", tmp_path / "run", training__num_steps=2) == 0
    caplog.set_level("INFO")
    assert run("train", tmp_path / "run") == 0
    assert any("of shape 2 in 4 classes" in message for message in caplog.messages)
    assert parameters(tmp_path / "run") == parameters(trained)
    lines = [(folder / "metrics.jsonl").read_text().splitlines()[-1] for folder in (trained, tmp_path / "run")]
    one, other = map(json.loads, lines)
    assert one["loss"] == other["loss"] and one["eval_loss"] == other["eval_loss"]


@pytest.mark.slow
def test_labels_decide_what_is_trained(trained, tmp_path):
    assert run("train", tmp_path, conditioning__null_probability=0.9) == 0
    assert parameters(tmp_path) != parameters(trained)


def test_samples_are_of_the_classes_that_are_asked_for(trained, tmp_path):
    asked = ["--config.conditioning.labels=(3,1)", "--config.conditioning.scale=2.0", f"--out={tmp_path}"]
    assert sample(trained, *asked) == 0
    found = np.load(tmp_path / "samples.npz")
    assert found["labels"].tolist() == [3, 1, 3, 1, 3, 1, 3, 1, 3] and found["samples"].shape == (9, 2)
    report = json.loads((tmp_path / "sampling.json").read_text())
    assert (report["classes"], report["scale"]) == ([3, 1], 2.0) and "rescale" not in report
    assert "of classes 3, 1 with guidance 2" in (tmp_path / "summary.md").read_text()
    check_described(tmp_path)
    assert sample(trained, f"--out={tmp_path}") == 0
    assert not (np.load(tmp_path / "samples.npz")["samples"] == found["samples"]).all()
    assert (tmp_path / "earlier" / "sample-1" / "samples.npz").exists()  # other classes are another result


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("labels=(4,)", "config.conditioning.labels has 4; expected classes from 0 to 3, the 4 of toy:rings."),
        ("classes=False", "conditioning.classes: True -> False"),
        ("null_probability=0.5", "conditioning.null_probability: 0.1 -> 0.5"),
    ],
)
def test_what_a_run_cannot_be_asked_for_is_one_message(trained, override, said, capsys):
    assert sample(trained, f"--config.conditioning.{override}") == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_likelihood_and_the_evaluation_know_the_labels(trained):
    assert sample(trained, mode="likelihood") == 0
    report = json.loads((trained / "likelihood.json").read_text())
    assert "given their classes" in report["protocol"] and np.isfinite(report["nats_per_example"])
    assert sample(trained, "--config.evaluation.num_samples=40", mode="eval") == 0
    (entry,) = json.loads((trained / "evaluation.json").read_text())["checkpoints"]
    assert np.isfinite(entry["loss"]) and entry["metrics"]


@pytest.mark.slow
def test_other_labels_of_the_same_data_are_refused_for_training_and_named_elsewhere(tmp_path, capsys, caplog):
    rng = np.random.RandomState(0)
    file, labels = tmp_path / "points.npz", np.arange(40) % 2
    points = rng.standard_normal((40, 2)).astype(np.float32)
    np.savez(file, x=points, labels=labels)
    assert run("train", tmp_path / "run", data__name=f"npz:{file}") == 0
    np.savez(file, x=points, labels=1 - labels)
    assert run("train", tmp_path / "run", data__name=f"npz:{file}", training__num_steps=6) == 2
    assert "contents of the train split" in capsys.readouterr().err
    assert sample(tmp_path / "run", mode="likelihood") == 0
    assert any("is not that of the data that the run was trained on" in message for message in caplog.messages)


def images(**changes):
    """A run on the classes of small images of four gray levels."""
    config = default_config()
    fields = {
        **{"conditioning.classes": True, "data.name": "digits", "dequantizer.offset": False},
        **{"model.channel_multipliers": (1,), "model.features": 8, "model.attention_resolutions": ()},
    }
    config.update_from_flattened_dict(fields | changes)
    return Experiment.from_config(config, (2, 2, 1), 4, num_classes=10, purposes=("train", "dequantize"))


class ByClass:
    """Noise that depends on the class."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        return x * (1.0 + 0.1 * label[:, None, None, None])


def test_dequantization_noise_is_judged_by_the_model_of_the_class_of_its_image():
    experiment = dataclasses.replace(images(), network=ByClass())
    loss = dequantizer_loss(experiment, UniformDequantizer(), {})
    levels, label = jax.random.randint(jax.random.key(0), (6, 2, 2, 1), 0, 4), jnp.array([0, 3, 1, 1, 9, 0])

    def losses(label):
        return loss({}, jax.random.key(1), Labeled(levels, label), train=False)

    alone = {k: losses(jnp.full(6, k)) for k in set(label.tolist())}
    assert len({float(values[0]) for values in alone.values()}) == len(alone)
    np.testing.assert_array_equal(losses(label), [alone[k][i] for i, k in enumerate(label.tolist())])


def test_a_classifier_judges_the_classes_of_its_own_data_alone():
    labels = np.arange(20) % 10
    logits = np.eye(10)[np.where(np.arange(20) < 5, (labels + 1) % 10, labels)]
    found = SampleFeatures(np.zeros((20, 1)), logits, 1.0, 1.0)
    run = SimpleNamespace(experiment=images(), source=SimpleNamespace(info=DIGITS_INFO))
    of_digits, of_mnist = (Points(num_features=1, name=f"classifier-{name}") for name in ("digits", "mnist"))
    assert _Evaluation._accuracy(run, found, of_digits)["class_accuracy"] == 0.75
    assert _Evaluation._accuracy(run, found, of_mnist) == {}


def test_the_accuracy_of_the_best_checkpoint_is_on_the_page(tmp_path):
    record = EvaluationRecord(tmp_path / "evaluation.json", "identity", best_by="loss", provenance={})
    shared = {"parameters": "00", "loss_std_error": 0.1, "class_accuracy_std_error": 0.01, "metrics": {}}
    record.add({"step": 1, "loss": 2.0, "class_accuracy": 0.5, **shared})
    record.add({"step": 2, "loss": 1.0, "class_accuracy": 0.75, **shared})
    (told,) = quantities_of("metrics.json", json.loads((tmp_path / "metrics.json").read_text()))
    assert told.line.startswith("Samples of their class 0.75") and "recognized by a classifier" in told.how


def test_data_without_labels_are_refused_before_training(tmp_path, capsys):
    assert run("train", tmp_path, data__name="toy:swissroll") == 2
    assert "toy:swissroll has no labels; expected a toy of several parts" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()
