"""The training loop, resumable bit for bit."""

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from score_sde.checkpointing import Check, CheckpointWriter, NotFinite, SnapshotWriter, double_precision
from score_sde.cluster import is_main
from score_sde.data import Feed, Source, TrainIterator, fingerprint, make_train_iterator
from score_sde.distributed import (
    check_batch,
    global_batch,
    jit_step,
    keep_pace,
    kept,
    options_once,
    platform_of,
    state_sharding,
    with_sharding,
)
from score_sde.errors import Preempted, UserError
from score_sde.fields import Settings
from score_sde.fields.training import Loop
from score_sde.files import atomic_write_json
from score_sde.state import TrainState
from score_sde.training.ema import power_averages
from score_sde.training.preemption import Preemption
from score_sde.training.step import Examples, TrainStep, repeat_step, steps_per_dispatch
from score_sde.training.trackers import Writers, open_trackers
from score_sde.training.writers import MetricWriter, ProgressBar, compiling
from score_sde.typing import Metrics, Params

log = logging.getLogger(__name__)

Watch = Callable[[int, Params], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A training task on the training split."""

    mesh: Mesh  # the devices
    run: Settings  # all settings of the run
    group: str  # the settings group of the loop: number of steps, batch size, intervals of logs, evaluations and saves
    source: Source  # the training split
    init_state: Callable[[], TrainState]  # the state at step 0
    step: Callable[..., TrainStep]  # the training step, given the constants
    # Constant arrays, such as the parameters of another network, replicated on every device.
    constants: tuple[Params, ...] = ()
    # Mean loss and standard error of the averaged parameters on held-out data.
    evaluate: Callable[[Params], tuple[float, float]]
    snapshot_every: int = 0  # steps between snapshots of the power-function averages; 0 for none
    # Called with the averaged parameters every ``watch_every`` steps and after the last; never if this is 0.
    watch: Watch = lambda step, params: None
    watch_every: int = 0
    advice: str  # advice for a loss that is no longer finite
    # Refuses a checkpoint of another configuration, see :meth:`.Checkpoints.restore_newest`.
    check: Check = lambda path, config: None
    cautions: Callable[[], Iterable[str]] = tuple  # warnings to log before the first step
    # Further files of the directory, as JSON values by file name.
    records: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> Loop:
        """The settings group of the loop."""
        return self.run[self.group]


def run(task: Task, workdir: Path) -> TrainState:
    """Train to ``num_steps``, resuming from the newest checkpoint in ``workdir`` if there is one.

    Batch ``n`` and all random numbers of step ``n`` depend only on the seed and ``n``, so an interrupted and an
    uninterrupted run end in the same bits. On SIGTERM, and on a first SIGINT, the state is saved after the current
    step.

    Raises:
        UserError: If a loss, a gradient or an array of the state is no longer finite (naming the step; the last
            checkpoint stays), if the batch does not divide over the devices, or if the directory cannot be written.
        Preempted: If SIGTERM or SIGINT came before the end.
        KeyboardInterrupt: If either came before the first step was done, or SIGINT came twice.
    """
    settings, mesh, every = task.settings, task.mesh, task.snapshot_every
    check_batch(mesh, settings.batch_size, parts=settings.accumulate)
    shapes = jax.eval_shape(task.init_state)
    sharding = state_sharding(mesh, shapes)
    like = with_sharding(shapes, sharding)
    began = time.perf_counter()
    keep = {"keep": settings.keep_checkpoints, "keep_every": settings.keep_every, "keep_best": settings.keep_best}
    with (
        CheckpointWriter(workdir, **keep) as saved,
        _advised(saved, task.advice),
        SnapshotWriter(workdir) as snapshots,
        Preemption() as preemption,
        _writers(task, workdir) as writer,
    ):
        iterator = _iterator(task)
        make_state, start, window = _start(task, saved, iterator, like)
        count = steps_per_dispatch(settings, platform_of(mesh), start)
        run_step = _program(task, sharding, count)
        writer.truncate(start)
        snapshots.forget_after(start)
        if start < settings.num_steps:
            for sentence in task.cautions():
                log.warning("%s", sentence)
            compiling("the training step")
        with _feed(task, iterator, count) as feed, ProgressBar(total=settings.num_steps, initial=start) as bar:
            steps = range(start + count, settings.num_steps + 1, count)
            batches = _compiled_first(run_step, like, feed) if steps else feed
            state = make_state()
            del make_state  # which may hold it
            for done in steps:
                state, metrics = run_step(state, next(batches))
                keep_pace(mesh, metrics)
                window.append(metrics)
                last, ending, loss = done == settings.num_steps, preemption.requested(), None
                if done % settings.log_every == 0 or last:
                    columns = _finite(window, done)
                    means = {name: float(np.mean(values, dtype=np.float64)) for name, values in columns.items()}
                    window = []
                    if done % settings.eval_every == 0 or last:
                        means["eval_loss"], means["eval_loss_std_error"] = task.evaluate(state.ema_params)
                        loss = means["eval_loss"]
                        _check_finite("loss on held-out data", loss, done)
                    _keep_records(task, workdir)
                    writer.write(done, means, timings=feed.throughput())
                    bar.update(done, means["loss"])
                if task.watch_every and (done % task.watch_every == 0 or last):
                    task.watch(done, state.ema_params)
                if every and (done % every == 0 or last):
                    snapshots.save(done, power_averages(state.opt_state))
                if done % settings.checkpoint_every == 0 or last or ending:
                    columns = _finite(window, done)
                    _keep_records(task, workdir)
                    writer.flush()
                    saved.save(state, feed.get_state(), task.run.to_dict(), window=columns, loss=loss)
                if ending and not last:
                    raise _preempted(preemption, done)
    _say_trained(task, start, began)
    return state


def _writers(task: Task, workdir: Path) -> contextlib.closing[Writers]:
    """The files of metrics, and the trackers of the run."""
    names, options = task.settings.get("trackers", ()), task.settings.get("options", {})
    others = open_trackers(names, options, workdir, task.run.to_dict())
    return contextlib.closing(Writers(MetricWriter(workdir), others))


def _keep_records(task: Task, workdir: Path) -> None:
    """Rewrite missing records, so that the directory stays a complete run."""
    lost = [name for name in task.records if not (workdir / name).exists()]
    if not lost or not is_main():
        return
    log.warning(
        "%s gone from %s, as if the directory had been moved or removed. Training goes on there, and what is gone is "
        "written again; earlier checkpoints and metrics are where it was moved to.",
        *(f"{' and '.join(lost)} {'are' if len(lost) > 1 else 'is'}", workdir),
    )
    for name in lost:
        atomic_write_json(workdir / name, task.records[name])


def _say_trained(task: Task, start: int, began: float) -> None:
    """Log the progress of training since a clock time, or that it was complete before."""
    steps = task.settings.num_steps
    if start < steps:
        log.info("Trained to step %d in %.0f s.", steps, time.perf_counter() - began)
        return
    there = (start, f"config.{task.group}.num_steps", steps)
    log.info("It is at step %d already and %s is %d: nothing is left to train.", *there)


def _preempted(preemption: Preemption, step: int) -> Preempted:
    how, code = ("interrupted", 130) if preemption.interrupted else ("stopped", 0)
    return Preempted(f"{how} at step {step}, which is saved; the same command goes on from there.", code=code)


def _program(task: Task, sharding: Any, count: int) -> Callable[..., Any]:
    """The program of ``count`` training steps; tasks with the same step share it."""

    def make() -> Callable[..., Any]:
        steps, leading = _steps(task, count), int(count > 1)
        return jit_step(steps, task.mesh, sharding, leading=leading, constants=task.constants)

    return make() if task.constants else kept((_program, task.step(), count), make)


def _steps(task: Task, count: int) -> Callable[..., tuple[TrainState, Metrics]]:
    """The program of ``count`` steps per call."""

    def steps(state: TrainState, batch: Examples, *constants: Params) -> tuple[TrainState, Metrics]:
        step = task.step(*constants)
        return (repeat_step(step) if count > 1 else step)(state, batch)

    return steps


def _iterator(task: Task) -> TrainIterator:
    labels = task.run.conditioning.classes
    return make_train_iterator(
        task.source,
        batch_size=task.settings.batch_size,
        seed=task.run.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        random_flip=task.run.data.random_flip,
        workers=task.run.data.workers,
        contents=fingerprint(task.source, labels=labels),
        labels=labels,
    )


def _feed(task: Task, iterator: TrainIterator, per_dispatch: int) -> Feed:
    def place(batch: Any) -> Examples:
        return jax.tree.map(lambda part: global_batch(task.mesh, part, leading=int(per_dispatch > 1)), batch)

    return Feed(iterator, place, per_dispatch=per_dispatch, prefetch=task.run.data.prefetch)


def _compiled_first(run_step: Callable[..., Any], like: TrainState, feed: Feed) -> Iterator[Examples]:
    """The batches of a feed, with the step compiled for the first one before there is a state."""
    first = next(feed)
    if (lower := getattr(run_step, "lower", None)) is not None:
        lower(like, first).compile()
    return itertools.chain((first,), feed)


def _start(
    task: Task, checkpoints: CheckpointWriter, iterator: TrainIterator, like: TrainState
) -> tuple[Callable[[], TrainState], int, list[dict[str, Any]]]:
    """The newest checkpoint with the data stream at its position, or a fresh state; and the metrics not yet logged.

    A fresh state is made when it is called for. Until then its program compiles in a thread, beside that of the step.
    """
    restored = checkpoints.restore_newest(like, check=task.check)
    if restored is None:
        options = options_once(platform_of(task.mesh))
        sharding = jax.tree.map(lambda leaf: leaf.sharding, like)
        lowered = jax.jit(task.init_state, out_shardings=sharding, compiler_options=options).lower()
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="initialization")
        compiled = thread.submit(lowered.compile)
        thread.shutdown(wait=False)
        return lambda: compiled.result()(), 0, []
    if restored.iterator:  # imported checkpoints have none: data start from the beginning
        iterator.set_state(restored.iterator)
    step = int(restored.state.step)
    log.info("Going on from step %d.", step)
    if step < task.settings.num_steps:
        _say_other_precision(restored.x64, step)
    columns = {name: np.asarray(values, np.float32) for name, values in restored.window.items()}
    return lambda: restored.state, step, [columns] if columns else []


def _say_other_precision(before: bool | None, step: int) -> None:
    now = double_precision()
    if before is not None and before != now:
        log.warning(
            "To step %d the run was trained with JAX_ENABLE_X64=%d, and it goes on with JAX_ENABLE_X64=%d: it does not "
            "end in the bits of an uninterrupted run.",
            *(step, before, now),
        )


def _finite(window: Iterable[dict[str, Any]], step: int) -> dict[str, list[float]]:
    """The metrics of the steps since the last log line.

    Raises:
        NotFinite: If a loss or a gradient among them is not finite.
    """
    host = jax.device_get(list(window))
    if not host:
        return {}
    columns = {name: np.concatenate([np.atleast_1d(metrics[name]) for metrics in host]) for name in host[0]}
    for name, label in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
        first = step - len(columns[name]) + 1
        for index, value in enumerate(columns[name].tolist()):
            _check_finite(label, value, first + index)
    return {name: values.tolist() for name, values in columns.items()}


def _check_finite(label: str, value: float, step: int) -> None:
    if not np.isfinite(value):
        raise NotFinite(f"The {label} became {value} at step {step}.")


@contextlib.contextmanager
def _advised(saved: CheckpointWriter, advice: str) -> Iterator[None]:
    """Add the last good checkpoint and the advice to the error of a run that is no longer finite."""
    try:
        yield
    except NotFinite as error:
        raise UserError(f"{error} {saved.kept()}; {advice}.") from error
