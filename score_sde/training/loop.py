"""The training loop: straight-line, resumable bit for bit."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from score_sde.checkpointing import Checkpoints
from score_sde.config import ConfigDict
from score_sde.data import Source, TrainIterator, load_source, make_train_iterator
from score_sde.distributed import global_batch, jit_step, make_mesh, replicated
from score_sde.errors import UserError
from score_sde.evaluation.loss import LossEvaluator
from score_sde.experiment import Experiment
from score_sde.training.state import TrainState
from score_sde.training.step import TrainStep, repeat_step
from score_sde.training.writers import MetricWriter, ProgressBar
from score_sde.typing import Metrics, Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Something to train on the training split.

    Attributes:
        config: The configuration of the run.
        settings: Which group of it says how long and in what batches, how often to log, to evaluate and to save.
        init_state: The state at step 0.
        step: The training step, given the constants.
        constants: Arrays that stay as they are, such as the parameters of another network, on every device.
        evaluate: Mean loss and standard error of the averaged parameters on held-out data.
        advice: What to change when a loss stops being finite.
    """

    config: ConfigDict
    settings: ConfigDict
    init_state: Callable[[], TrainState]
    step: Callable[..., TrainStep]
    constants: tuple[Params, ...] = ()
    evaluate: Callable[[Params], tuple[float, float]]
    advice: str


def train(experiment: Experiment, workdir: Path) -> TrainState:
    """Train the score network to ``training.num_steps``; see :func:`run`."""
    config = experiment.config
    task = Task(
        config=config,
        settings=config.training,
        init_state=experiment.init_state,
        step=lambda: experiment.train_step,
        evaluate=LossEvaluator(experiment, split_of(config, "test")),
        advice="lower config.optim.lr or config.optim.grad_clip, and start in another --workdir",
    )
    return run(task, workdir)


def run(task: Task, workdir: Path) -> TrainState:
    """Train to ``num_steps``, going on from the newest checkpoint in ``workdir`` if there is one.

    Batch ``n`` and every random number of step ``n`` depend on the seed and on ``n`` alone, so that an interrupted and
    an uninterrupted run end in the same bits.

    Raises:
        UserError: If the loss stops being finite (naming the step; the last checkpoint stays), if the batch does not
            divide over the devices, or if the directory cannot be written.
    """
    config, settings, per_dispatch = task.config, task.settings, task.settings.steps_per_dispatch
    mesh = make_mesh(settings.batch_size)
    iterator = make_train_iterator(
        split_of(config, "train"),
        batch_size=settings.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        random_flip=config.data.random_flip,
    )

    def steps(state: TrainState, batch: Array, *constants: Params) -> tuple[TrainState, Metrics]:
        step_fn = task.step(*constants)
        if per_dispatch > 1:
            step_fn = repeat_step(step_fn, unroll=jax.default_backend() == "cpu")
        return step_fn(state, batch)

    run_step = jit_step(steps, mesh, leading=int(per_dispatch > 1), constants=task.constants)
    with Checkpoints(workdir, keep=settings.keep_checkpoints) as checkpoints, MetricWriter(workdir) as writer:
        state, start = _start(task, checkpoints, iterator)
        state = jax.device_put(state, replicated(mesh))
        writer.truncate(start)
        window: list[dict[str, Array]] = []
        with ProgressBar(total=settings.num_steps, initial=start) as bar:
            for done in range(start + per_dispatch, settings.num_steps + 1, per_dispatch):
                state, metrics = run_step(
                    state, global_batch(mesh, _next(iterator, per_dispatch), leading=int(per_dispatch > 1))
                )
                window.append(metrics)
                if done % settings.log_every == 0 or done == settings.num_steps:
                    means = _window_means(window, done, checkpoints.steps, task.advice)
                    if done % settings.eval_every == 0 or done == settings.num_steps:
                        means["eval_loss"], means["eval_loss_std_error"] = task.evaluate(state.ema_params)
                    writer.write(done, means)
                    bar.update(done, means["loss"])
                    window = []
                if done % settings.checkpoint_every == 0 or done == settings.num_steps:
                    checkpoints.save(state, iterator.get_state(), config.to_dict())
    return state


def split_of(config: ConfigDict, split: str) -> Source:
    """One split of the data that the configuration names."""
    return load_source(config.data.name, split, data_dir=config.data.data_dir or None, shape=tuple(config.data.shape))


def _start(task: Task, checkpoints: Checkpoints, iterator: TrainIterator) -> tuple[TrainState, int]:
    """The newest checkpoint, with the data stream set to its place, or a fresh state."""
    restored = checkpoints.restore_newest(jax.eval_shape(task.init_state), repair=True)
    if restored is None:
        # Drawing the weights runs once: on a CPU, optimising that program takes four times longer than running it.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return jax.jit(task.init_state, compiler_options=options)(), 0
    if restored.iterator:  # an imported checkpoint has none: its data start from the beginning
        iterator.set_state(restored.iterator)
    step = int(restored.state.step)
    log.info("Going on from step %d.", step)
    return restored.state, step


def _next(iterator: TrainIterator, count: int) -> np.ndarray:
    """The next batch, or the next ``count`` of them stacked."""
    if count == 1:
        return next(iterator).data
    return np.stack([next(iterator).data for _ in range(count)])


def _window_means(window: Iterable[dict[str, Any]], step: int, saved: list[int], advice: str) -> dict[str, float]:
    """Means of the metrics since the last log line.

    Raises:
        UserError: If a loss or a gradient among them is not finite.
    """
    host = jax.device_get(list(window))
    columns = {name: np.concatenate([np.atleast_1d(metrics[name]) for metrics in host]) for name in host[0]}
    for name, label in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
        finite = np.isfinite(columns[name])
        if not finite.all():
            first = int(np.argmin(finite))
            kept = f"The checkpoint of step {saved[-1]} is kept" if saved else "No checkpoint had been written yet"
            raise UserError(
                f"The {label} became {columns[name][first]} at step {step - len(finite) + 1 + first}. {kept}; {advice}."
            )
    return {name: float(np.mean(values, dtype=np.float64)) for name, values in columns.items()}
