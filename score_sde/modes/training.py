"""Training of the score network."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.agreement import agreed_on
from score_sde.cautions import cautions
from score_sde.checkpointing import Check
from score_sde.data import DataRecord, Source, tell
from score_sde.evaluation.loss import LossEvaluator
from score_sde.evaluation.samples import in_rows, sampled_labels, sketch
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, check_writable, only_writer
from score_sde.labels import Taught
from score_sde.modes.models import start_from, teacher_of
from score_sde.modes.record import GIVEN, check_given, claim, of_this_run, recorded_data
from score_sde.modes.workdir import build_experiment, has_checkpoint, load_splits, summarize, train_to_end
from score_sde.objectives import taught
from score_sde.report.continuous import show
from score_sde.report.measured import loss_curve
from score_sde.report.plots import image_grid
from score_sde.state import TrainState
from score_sde.training.labels import check_reads_labels
from score_sde.training.loop import Task, Watch
from score_sde.training.step import TrainStep, configured_step
from score_sde.typing import Params

log = logging.getLogger(__name__)


def run_train(config: Settings, workdir: Path, command: str) -> None:
    """Train, or resume training, and draw the loss curve."""

    def prepare() -> tuple[tuple[Experiment, dict[str, Source], DataRecord], dict[str, Any]]:
        check_given(workdir, None)
        known = recorded_data(workdir)
        experiment = build_experiment(config, "train", standardization=known and known.standardization)
        sources, scale = load_splits(config), experiment.quantization.standardization
        record = DataRecord.of(
            sources["train"].info, sources, labels=config.conditioning.classes, standardization=scale
        )
        return (experiment, sources, record), record.summary()

    experiment, sources, data = agreed_on("data", prepare)
    train_run(experiment, sources, data, workdir, watch=_pictures(experiment, sources["test"], workdir / "progress"))
    loss_curve(workdir / "metrics.jsonl", workdir / "loss.png")
    summarize(workdir, workdir)


def train_run(
    experiment: Experiment,
    sources: Mapping[str, Source],
    data: DataRecord,
    workdir: Path,
    *,
    watch: Watch = lambda step, params: None,
    given: str = "",
) -> TrainState:
    """Train in a working directory, alone there, with the records of configuration and data that make it a run.

    ``given`` names the network of a program, which the configuration does not.

    Raises:
        UserError: As :func:`train`; if the directory holds another run, or another process trains in it.
    """
    config = experiment.settings
    check_writable(workdir)
    with only_writer(workdir, "train", doing=f"training the run in {workdir}"):
        records = claim(config, workdir, data)
        tell(sources, labels=config.conditioning.classes, standardized=data.standardization is not None)
        init_state, from_what = _start(experiment, workdir)
        from_what |= {GIVEN: {"network": given}} if given else {}
        for name, record in from_what.items():
            atomic_write_json(workdir / name, record)
        return train(
            experiment,
            workdir,
            init_state=init_state,
            watch=watch,
            sources=sources,
            teacher=teacher_of(experiment, workdir),
            check=of_this_run(workdir),
            cautions=lambda: cautions(config, sources["train"], data.standardization),
            records=records | from_what,
        )


def _start(experiment: Experiment, workdir: Path) -> tuple[Callable[[], TrainState], dict[str, Any]]:
    """The state at step 0, and the record of the model that it comes from, if from any."""
    settings = experiment.settings.training
    if not settings.init_from or has_checkpoint(workdir):
        return experiment.init_state, {}
    start = start_from(experiment, settings.init_from, anew=settings.init_anew)
    anew = f", with {len(start.record['anew'])} parameters initialized anew" if start.record["anew"] else ""
    log.info("Starting from %s of step %d%s.", settings.init_from, start.record["step"], anew)
    return start.init_state, {"init.json": start.record}


def train(
    experiment: Experiment,
    workdir: Path,
    *,
    init_state: Callable[[], TrainState] | None = None,
    watch: Watch = lambda step, params: None,
    sources: Mapping[str, Source] | None = None,
    teacher: Params | None = None,
    check: Check = lambda path, config: None,
    cautions: Callable[[], Iterable[str]] = tuple,
    records: Mapping[str, Any] | None = None,
) -> TrainState:
    """Train the score network to ``training.num_steps``; see :func:`score_sde.training.loop.run`.

    ``watch`` is called with the averaged parameters every ``training.sample_every`` steps. The splits of the data are
    loaded unless given, and the state at step 0 is the experiment's. A student learns from the parameters of a teacher.
    The other arguments are those of :class:`score_sde.training.loop.Task`.

    Raises:
        UserError: As :func:`score_sde.training.loop.run`; if a network that is trained on labels ignores them.
    """
    config = experiment.settings
    sources = load_splits(config) if sources is None else sources
    if experiment.num_classes and not has_checkpoint(workdir):
        check_reads_labels(experiment.network, experiment.event_shape)
    evaluate = LossEvaluator(experiment, sources["test"])

    def step(*teachers: Params) -> TrainStep:
        if not teachers:
            return experiment.train_step
        loss = taught(experiment.loss, *teachers)
        return configured_step(config, loss, experiment.tx, prepare=experiment.prepare, mesh=experiment.mesh)

    task = Task(
        mesh=experiment.mesh,
        run=config,
        group="training",
        source=sources["train"],
        init_state=init_state or experiment.init_state,
        step=step,
        constants=() if teacher is None else (teacher,),
        evaluate=evaluate if teacher is None else lambda params: evaluate(Taught(params, teacher)),
        snapshot_every=config.optim.ema_snapshot_every,
        watch=watch,
        watch_every=config.training.sample_every,
        advice="lower config.optim.lr or config.optim.grad_clip, and start in another --workdir",
        check=check,
        cautions=cautions,
        records=records or {},
    )
    return train_to_end(task, workdir)


def _pictures(experiment: Experiment, source: Source, directory: Path) -> Watch:
    """Draws samples of the model from the same noise every time: ``progress/step_00000500.png``."""
    num_grey_levels = experiment.quantization.num_grey_levels
    count = min(6 * len(experiment.sampled_classes), 60) or 36
    samples = sketch(experiment, 1000 if len(experiment.event_shape) == 1 else count)
    shown, columns = in_rows(sampled_labels(experiment, count))

    def draw(step: int, params: Params) -> None:
        found = samples(params)
        picture = directory / f"step_{step:08d}.png"
        if num_grey_levels is not None:
            image_grid(found[shown], picture, num_grey_levels=num_grey_levels, columns=columns)
        elif np.isfinite(found).all():  # early in training a model may send points anywhere
            show(found, source.gather(np.arange(min(len(found), len(source)))), picture)

    return draw
