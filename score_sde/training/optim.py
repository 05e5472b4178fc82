"""The optimizer of the score-SDE family: Adam with linear warm-up and global-norm clipping."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import optax

from score_sde.fields import DEFAULTS
from score_sde.fields.training import Optim
from score_sde.training.ema import track_power_averages

Optimizer: TypeAlias = optax.GradientTransformation


def make_optimizer(optim: Optim = DEFAULTS.optim, *, num_steps: int = DEFAULTS.training.num_steps) -> Optimizer:
    """Adam with a learning rate that rises linearly from 0 over ``warmup`` steps, then stays or decays as a cosine.

    With a warm-up the first update has rate 0, as in the original.

    The length of the run is for the cosine.
    """
    lr, warmup = optim.lr, optim.warmup
    after = SCHEDULES[optim.schedule].make(lr, max(num_steps - warmup, 1))
    rate = optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup]) if warmup > 0 else after
    moments = (optim.beta1, optim.beta2, optim.eps)
    decay = optim.weight_decay
    adam = optax.adamw(rate, *moments, weight_decay=decay) if decay else optax.adam(rate, *moments)
    parts = [optax.clip_by_global_norm(optim.grad_clip)] if optim.grad_clip > 0 else []
    parts.append(adam)
    if optim.ema_widths:
        parts.append(track_power_averages(optim.ema_widths))
    return optax.chain(*parts) if len(parts) > 1 else adam


class Schedule(NamedTuple):
    """Learning rates after the warm-up, made from the first rate and the number of steps."""

    make: Callable[[float, int], optax.Schedule]
    of_length: bool  # whether the rate of a step depends on the length of the run


#: The schedules by name.
SCHEDULES: Mapping[str, Schedule] = {
    "constant": Schedule(lambda lr, steps: optax.constant_schedule(lr), of_length=False),
    "cosine": Schedule(optax.cosine_decay_schedule, of_length=True),
}
