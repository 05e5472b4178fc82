"""Networks that are trained beside the score, each in its own folder: dequantizers and classifiers of noisy data."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from score_sde.cautions import run_cautions
from score_sde.checkpointing import Check, Checkpoints, edited_record
from score_sde.config import changed_fields
from score_sde.data.identity import PLACE_FIELDS
from score_sde.distributed import state_sharding, with_sharding
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.state import TrainState, state_of
from score_sde.training.loop import Task
from score_sde.training.optim import SCHEDULES, Optimizer, make_optimizer
from score_sde.training.step import TrainStep, make_train_step
from score_sde.typing import Loss, PRNGKey


def optimizer_of(settings: Settings, group: str) -> Optimizer:
    """The optimizer of the model, with the learning rate and the warm-up of a group of fields."""
    own = settings[group]
    optim = dataclasses.replace(settings.optim, lr=own.lr, warmup=own.warmup, ema_widths=())
    return make_optimizer(optim, num_steps=own.num_steps)


def init_part(experiment: Experiment, part: Any, group: str) -> TrainState:
    """The state at step 0 of a part with a function ``init(key, shape)``, trained as a group of fields says."""
    seed = experiment.settings.seed
    params = part.init(jax.random.split(jax.random.key(seed))[0], (1, *experiment.event_shape))
    return state_of(params, optimizer_of(experiment.settings, group), seed)


def part_step(experiment: Experiment, loss: Loss, group: str, prepare: Callable[[PRNGKey, Any], Any]) -> TrainStep:
    """The training step of a part, as a group of fields says."""
    config, own = experiment.settings, experiment.settings[group]
    return make_train_step(
        loss,
        optimizer_of(config, group),
        prepare=prepare,
        ema_rate=own.ema_rate,
        ema_warmup=config.optim.ema_warmup,
        accumulate=own.accumulate,
        mesh=experiment.mesh,
    )


def part_task(experiment: Experiment, part: Any, group: str, directory: Path, **others: Any) -> Task:
    """The training of a part in its folder; the other arguments are those of :class:`score_sde.training.loop.Task`."""
    return Task(
        mesh=experiment.mesh,
        run=experiment.settings,
        group=group,
        init_state=lambda: init_part(experiment, part, group),
        advice=f"lower config.{group}.lr or config.optim.grad_clip, and remove {directory} to start again",
        cautions=lambda: run_cautions(experiment.settings, group),
        **others,
    )


def check_same_part(
    recorded: Mapping[str, Any], config: Settings, directory: Path, group: str, *, trained: Collection[str]
) -> None:
    """Refuse a configuration that differs from a folder's in the groups of fields that decided its training.

    Raises:
        UserError: With every field that differs.
    """
    loop = ("accumulate", "eval_every", "num_steps", "keep_checkpoints", "keep_every", "keep_best")
    places = (f"data.{name}" for name in PLACE_FIELDS)
    free = {*places, "optim.ema_widths", "optim.ema_snapshot_every", *(f"{group}.{name}" for name in loop)}
    if SCHEDULES[config.optim.schedule].of_length:  # which then decides the result
        free -= {f"{group}.num_steps"}
    if changed := changed_fields(recorded, config, groups=trained, free=free):
        home = directory.parents[1] if directory.parent.name == "checkpoints" else directory
        back = f"Set these fields back, or remove {home} to train another"
        raise UserError(
            f"The configuration differs from that of the {group} in {directory}:\n  " + "\n  ".join(changed) + "\n"
            f"{edited_record(home, groups=trained, free=free) or back}."
        )


def newest_part(mesh: Mesh, directory: Path, init_state: Callable[[], TrainState], check: Check) -> TrainState | None:
    """The state of the newest good checkpoint of a folder, whole on every device; None without one."""
    like = jax.eval_shape(init_state)
    whole = with_sharding(like, state_sharding(mesh, like, fsdp=False))
    restored = Checkpoints(directory).restore_newest(whole, check=check)
    return None if restored is None else restored.state
