"""Values within the bounds, run in a mode that reads them: the end is success with finite numbers, or one message.

Each field takes its affordable values one by one, in runs of two steps on toys and digits. This takes about an hour.
"""

import faulthandler
import itertools
import json
import math
import shutil
import signal

import numpy as np
import pytest

from score_sde.cli import main
from score_sde.config import default_config
from score_sde.fields import DEFAULTS, FIELDS
from score_sde.fields.conditions import Where
from score_sde.fields.kinds import Choice, Flag, Integer, Several
from score_sde.fields.settings import leaves
from score_sde.validation import problems_of, purposes_of
from tests.fuzz.values import good_values, written

SECONDS = 240  # for one run on a busy machine
TINY = {
    **{"model.features": 8, "model.num_blocks": 1, "model.dropout": 0.0, "model.latent_dim": 2, "model.widths": "8"},
    **{"training.num_steps": 2, "training.batch_size": 8, "training.log_every": 1, "training.eval_every": 2},
    **{"training.checkpoint_every": 2, "training.steps_per_dispatch": 1, "training.sample_every": 0},
    **{"optim.warmup": 1, "optim.ema_rate": 0.5, "optim.schedule": "constant", "optim.ema_warmup": False},
    **{"sampling.num_samples": 40, "sampling.batch_size": 40, "sampling.num_steps": 20, "sampling.max_steps": 500},
    **{
        "likelihood.num_examples": 8,
        "likelihood.batch_size": 8,
        "likelihood.num_steps": 6,
        "likelihood.noise_levels": 2,
    },
    **{"likelihood.budget_examples": 2, "likelihood.bound_times": 2, "evaluation.num_samples": 40},
    **{"evaluation.reference_examples": 60, "evaluation.keep_features": 50, "parameterization.num_scales": 50},
    **{"conditioning.num_images": 2, "conditioning.draws": 2},
    **{"classifier.widening": 1, "classifier.num_blocks": 1, "classifier.num_steps": 2, "classifier.batch_size": 8},
    **{"classifier.log_every": 1, "classifier.eval_every": 2, "classifier.checkpoint_every": 2, "classifier.warmup": 1},
    **{"classifier.steps_per_dispatch": 1, "classifier.ema_rate": 0.5, "classifier.levels": 2},
    **{"pareto.num_samples": 20, "pareto.evals": "5", "pareto.grids": "log_snr", "pareto.solvers": "ddim"},
}
POINTS = {"data.name": "toy:moons", "model.name": "mlp", **TINY}
IMAGES = {
    **{"data.name": "digits", "model.name": "ncsnpp", "model.channel_multipliers": "1,1"},
    **{"model.attention_resolutions": "4", **TINY},
}
DEQUANTIZED = {
    **{"dequantizer.name": "flowpp", "dequantizer.filters": 4, "dequantizer.components": 2, "dequantizer.blocks": 1},
    **{"dequantizer.num_flows": 1, "dequantizer.heads": 2, "dequantizer.context_features": 2},
    **{"dequantizer.num_steps": 2, "dequantizer.batch_size": 8, "dequantizer.log_every": 1},
    **{"dequantizer.eval_every": 2, "dequantizer.checkpoint_every": 2, "dequantizer.warmup": 1},
    **{"dequantizer.steps_per_dispatch": 1, "dequantizer.ema_rate": 0.5},
}
AUTOENCODER = {"data.name": "digits", "model.name": "vae", "objective.kind": "bound", **TINY}
CHAIN = {
    **{"sde.schedule": "linear", "sde.beta_max": 10.0, "objective.t_min": 0.02, "objective.kind": "bound"},
    **{"sampling.predictor": "ancestral", "sampling.t_min": 0.02, "parameterization.variances": "small"},
}
#: What goes with a value that the condition of a field asks for.
GOES_WITH = {
    ("objective.kind", "mean_flow"): {"parameterization.output": "velocity"},
    ("objective.kind", "distillation"): {"training.init_from": "teacher"},
    ("sde.schedule", "linear"): {"objective.t_min": 0.02, "sampling.predictor": "ancestral", "sampling.t_min": 0.02},
    ("objective.kind", "bound"): CHAIN,
    ("conditioning.method", "repaint"): {"conditioning.noise_std": 0.0},
    ("model.name", "ncsn"): {"model.name": "ncsnv2_64", "model.features": 32},
}
#: What must be set beside the conditions of a field.
READ_WITH = {
    "objective.hybrid": CHAIN | {"parameterization.variances": "learned"},
    "optim.ema_snapshot_every": {"optim.ema_widths": "0.1"},
    "sde.schedule": {"objective.t_min": 0.02, "sampling.predictor": "ancestral"},
}
MODES = {
    **{"sampling": "sample", "likelihood": "likelihood", "evaluation": "eval", "pareto": "pareto", "plan": "plan"},
    **{"dequantizer": "train_dequantizer", "classifier": "train_classifier", "conditioning": "restore"},
}
#: Fields that another mode than their group's reads.
MODES_OF = {
    **dict.fromkeys(("conditioning.classes", "conditioning.null_probability"), "train"),
    **dict.fromkeys((f"conditioning.{name}" for name in ("labels", "scale", "guidance_interval", "rescale")), "sample"),
}
NOT_RUN = {
    **dict.fromkeys(("data.data_dir", "data.shape", "evaluation.weights", "evaluation.reference"), "files of the user"),
    **dict.fromkeys(("conditioning.images", "conditioning.classifier"), "files of the user"),
    **dict.fromkeys(("conditioning.classifier_scale",), "read beside a trained classifier"),
    **dict.fromkeys(("objective.student_steps",), "read beside a teacher"),
    **dict.fromkeys(("data.workers",), "processes"),
    **dict.fromkeys(("training.trackers",), "packages that are extras"),
    **dict.fromkeys(("plan.topology",), "a compiler for TPUs"),
    **dict.fromkeys(("training.batch_size", "training.num_steps"), "the size of the run itself"),
}
DEEP = ("dequantizer.blocks", "dequantizer.num_flows")  # which are compiled for minutes
FREE = ("seed", "sampling.max_steps", "data.prefetch", "training.keep_checkpoints", "parameterization.num_scales")


def mode_of(name, other):
    """The mode that reads a field; another for the groups that all modes read."""
    return MODES_OF.get(name) or MODES.get(name.partition(".")[0], other)


def affordable(name, kind):
    """The good values whose runs end soon, and at most five names."""
    values = good_values(kind)
    if isinstance(kind, Choice):
        local = [value for value in values if ":" not in value or value.startswith("toy:")]
        return [value for value in local if value not in ("mnist", "fashion_mnist", "cifar10")][:24]
    if isinstance(kind, Integer) and name not in FREE:
        return [value for value in values if value <= (4 if name in DEEP else 64)]
    if isinstance(kind, Several) and isinstance(kind.of, Integer):
        return [value for value in values if all(entry <= 64 for entry in value)]
    return values if not isinstance(kind, Flag) else [not kind.default]


def base_of(name):
    group, when = name.partition(".")[0], FIELDS[name].when
    if Where("model.name", ("vae",)) in itertools.chain(*when.clauses):
        return AUTOENCODER
    if group == "dequantizer":
        return IMAGES | DEQUANTIZED
    if group == "classifier":
        return POINTS | {"data.name": "toy:rings"}
    if group in ("model", "conditioning") or name.startswith("sampling.threshold") or name in READ_ON_IMAGES:
        return IMAGES
    return POINTS


def settings_of(name):
    """Settings under which a field is read: its conditions are fulfilled one by one."""
    settings = base_of(name) | READ_WITH.get(name, {})
    while (clause := FIELDS[name].when.failing({**leaves(DEFAULTS), **settings})) is not None:
        where = clause[0]
        allowed = affordable(where.field, FIELDS[where.field]) if where.but else where.values
        value = next(value for value in allowed if (value in where.values) is not where.but)
        settings |= {where.field: value, **GOES_WITH.get((where.field, value), {})}
    return settings


READ_ON_IMAGES = (
    *("data.centered", "data.random_flip", "likelihood.dequantization", "likelihood.num_dequantizations"),
    *("likelihood.importance_weighted", "likelihood.decoder", "evaluation.extractor", "parameterization.variances"),
    *("objective.hybrid", "likelihood.chain_terms", "objective.augment_probability"),
)


def arguments(settings):
    return [
        f"--config.{name}={value if isinstance(value, str) else written(value)}" for name, value in settings.items()
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that were trained with some settings, each once."""
    kept = {}

    def trained(settings):
        decisive = {name: str(value) for name, value in settings.items() if mode_of(name, "train") == "train"}
        key = json.dumps(decisive)
        if key not in kept:
            kept[key] = tmp_path_factory.mktemp("run")
            assert (
                main(["--config=vp/digits_ddpmpp", f"--workdir={kept[key]}", "--mode=train", *arguments(settings)]) == 0
            )
        return kept[key]

    return trained


@pytest.fixture(autouse=True)
def no_hang():
    """End a run that hangs."""

    def stop(*_):
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(20 * 60 * 60, exit=True)
    yield
    signal.alarm(0)
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, before)


def finite(path):
    """Whether every number in the results of a run is finite; infinite ones are null in JSON."""
    for file in (*path.glob("metrics.jsonl"), *path.glob("[cd]*er/metrics.jsonl")):
        for line in file.read_text().splitlines():
            assert all(math.isfinite(value) for value in json.loads(line).values() if value is not None), line
    for file in path.glob("samples.npz"):
        with np.load(file) as archive:
            assert all(np.isfinite(archive[name]).all() for name in archive.files)


@pytest.mark.long
@pytest.mark.parametrize("name", FIELDS)
def test_an_affordable_value_ends_in_finite_numbers_or_in_one_message(name, runs, tmp_path, capsys, monkeypatch):
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    mode = mode_of(name, "sample" if name == "ema_width" else "train")
    settings = settings_of(name)
    ended, failed = [], []
    for index, value in enumerate(affordable(name, FIELDS[name])):
        given = {**settings, name: value}
        workdir = tmp_path / str(index) if mode in ("train", "plan") else runs(settings)
        if mode in ("train_dequantizer", "train_classifier"):  # a run has one of each
            workdir = shutil.copytree(workdir, tmp_path / str(index))
        signal.alarm(SECONDS)
        monkeypatch.delenv("SCORE_SDE_TRACEBACK", raising=False)
        code = main(["--config=vp/digits_ddpmpp", f"--workdir={workdir}", f"--mode={mode}", *arguments(given)])
        signal.alarm(0)
        said = capsys.readouterr().err
        if code == 0:
            finite(workdir)
        if code not in (0, 2) or "Traceback" in said or "fault of" in said:
            failed.append(f"{name}={value}: {code} {said[-600:]}")
        ended.append((value, code, said.strip().splitlines()[-1] if code else ""))
    with capsys.disabled():
        print(f"\n{name}: {sum(not end[1] for end in ended)} of {len(ended)} runs ended well")
        for value, code, said in ended:
            if code:
                print(f"   {value!r:.40}: {code} {said:.200}")
    assert not failed, "\n".join(failed)


def test_the_fields_that_are_not_run_exist():
    names = {*NOT_RUN, *MODES_OF, *READ_WITH, *READ_ON_IMAGES, *FREE, *DEEP, *TINY, *DEQUANTIZED}
    assert names <= set(FIELDS) and default_config().seed


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", FIELDS)
def test_the_settings_under_which_a_field_is_read_go_together(name):
    settings = settings_of(name)
    typed = {
        field: FIELDS[field].parse(value) if isinstance(value, str) else value for field, value in settings.items()
    }
    config = DEFAULTS.with_fields(typed)
    shape, levels = ((2,), None) if settings["data.name"].startswith("toy:") else ((8, 8, 1), 17)
    mode = mode_of(name, "train")
    assert not list(problems_of(config, shape, levels, purposes_of(mode, config)))
    assert FIELDS[name].when.failing(leaves(config)) is None
