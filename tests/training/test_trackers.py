"""Trackers are told what the files of a run are told, go on where they were, and never end a training."""

import json
import sys

import pytest

from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.training import trackers
from score_sde.training.trackers import NAMES, Writers, open_trackers

CONFIG = DEFAULTS.with_("optim", lr=0.25).to_dict()
MINE = '''
import json


class Recorder:
    """Records every call, and fails at the step that it is told."""

    def __init__(self, workdir, config, fails_at=0):
        self.path, self.fails_at = workdir / "calls.jsonl", fails_at
        self.record("opened", config["optim"]["lr"])

    def record(self, *call):
        with self.path.open("a") as file:
            file.write(json.dumps(call) + "\\n")

    def write(self, step, metrics, *, timings=None):
        if step == self.fails_at:
            raise RuntimeError("the network is gone")
        self.record("write", step, float(metrics["loss"]), sorted(timings))

    def truncate(self, step):
        self.record("truncate", step)

    def flush(self):
        self.record("flush")

    def close(self):
        self.record("close")


def nothing(workdir, config):
    return object()
'''
TINY = {
    **{"model.features": 8, "model.num_blocks": 1, "optim.warmup": 1, "optim.ema_rate": 0.5, "training.num_steps": 4},
    **{"training.batch_size": 8, "training.log_every": 2, "training.eval_every": 4, "training.checkpoint_every": 4},
    **{"training.sample_every": 0, "likelihood.batch_size": 10_000},
}


@pytest.fixture
def train(tmp_path):
    """Trains the toy with trackers from a module beside the configuration."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "toy.py").write_text(
        "from score_sde.config import default_config\n\n\ndef get_config():\n"
        "    config = default_config()\n    config.data.name = 'toy:moons'\n    config.model.name = 'mlp'\n"
        "    return config\n"
    )

    def run(tracker, **changes):
        fields = (
            TINY | {"training.trackers": tracker} | {name.replace("__", "."): value for name, value in changes.items()}
        )
        overrides = [f"--config.{name}={value}" for name, value in fields.items()]
        return main([f"--config={tmp_path / 'toy.py'}", f"--workdir={tmp_path / 'run'}", "--mode=train", *overrides])

    return run


@pytest.mark.slow
def test_a_writer_of_ones_own_is_told_what_the_files_are_and_a_resumed_run_goes_on(train, tmp_path):
    assert train("mine:Recorder", optim__lr=0.001) == 0
    assert train("mine:Recorder", optim__lr=0.001, training__num_steps=8) == 0
    calls = [json.loads(line) for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    written = [(call[1], call[2]) for call in calls if call[0] == "write"]
    assert written == [(line["step"], line["loss"]) for line in lines] and [step for step, _ in written] == [2, 4, 6, 8]
    assert "images_per_second" in calls[3][3]
    kinds = [call[0] for call in calls]
    first = kinds.index("close")
    assert kinds[: first + 1] == ["opened", "truncate", "write", "write", "flush", "close"]
    assert calls[first + 1 : first + 3] == [["opened", 0.001], ["truncate", 4]] and kinds[-1] == "close"


def test_training_goes_on_without_a_tracker_that_fails(train, tmp_path, caplog):
    assert train("mine:Recorder", training__options__fails_at=2) == 0
    assert "The tracker mine:Recorder fails (the network is gone); training goes on without it." in caplog.text
    calls = [json.loads(line)[0] for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    assert calls == ["opened", "truncate"] and (tmp_path / "run" / "checkpoints" / "4").is_dir()


@pytest.mark.parametrize(
    ("tracker", "changes", "told"),
    [
        ("mine:nothing", {}, "mine:nothing makes a object without write, truncate, flush, close; expected a Writer."),
        ("mine:Recorderr", {}, "has no 'Recorderr', which mine:Recorderr names. Did you mean 'Recorder'?"),
        ("mine:Recorder", {"training__options__failsat": 2}, "Did you mean 'fails_at'?"),
        ("wandbb", {}, "Did you mean 'wandb'?"),
        ("wandb,wandb", {}, "config.training.trackers is ('wandb', 'wandb'); expected a tuple of 0 to 8 different"),
    ],
)
def test_what_is_no_tracker_is_refused_in_a_sentence(train, capsys, tracker, changes, told):
    assert train(tracker, **changes) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named_before_training(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"names {name}, which is not installed .* pip install 'score_sde\[{name}\]'"):
        open_trackers([name], {}, tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_only_the_first_of_several_processes_has_trackers(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "is_main", lambda: False)
    assert open_trackers(["wandb", "nowhere:writer"], {}, tmp_path, CONFIG) == {}


class _Nowhere:
    def write(self, step, metrics, *, timings=None):
        pass

    def truncate(self, step):
        pass

    flush = close = lambda self: None


def _told(workdir, name, steps, start=0):
    """A run of some steps that was resumed, perhaps before the last that was told."""
    writer = Writers(_Nowhere(), open_trackers([name], {}, workdir, CONFIG))
    writer.truncate(start)
    for step in steps:
        writer.write(step, {"loss": 1.0 / step}, timings={"images_per_second": 5.0})
    writer.flush()
    writer.close()
    return json.loads((workdir / NAMES).read_text())[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of their libraries
def test_mlflow_has_one_run_with_every_step_once_and_the_configuration(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    name = _told(tmp_path, "mlflow", (1, 2, 3))
    assert _told(tmp_path, "mlflow", (3, 4), start=2) == name
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = {each.step: each.value for each in client.get_metric_history(name, "loss")}
    assert history == {step: 1.0 / step for step in (1, 2, 3, 4)}
    assert len(client.get_metric_history(name, "loss")) == 4
    run = client.get_run(name)
    assert run.data.params["optim.lr"] == "0.25" and run.info.status == "FINISHED"
    assert run.info.run_name == tmp_path.name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_stays_here_and_a_resumed_run_is_the_same_to_it(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    name = _told(tmp_path, "wandb", (1, 2, 3))
    assert _told(tmp_path, "wandb", (3, 4), start=2) == name
    wandb.teardown()  # its own process writes the rest
    kept = sorted((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert kept and all(b"optim" in file.read_bytes() and b"images_per_second" in file.read_bytes() for file in kept)
