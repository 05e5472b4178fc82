"""The optimiser of the score-SDE family: Adam with linear warm-up and global-norm clipping."""

from typing import Literal

import optax

from score_sde.fields import DEFAULTS
from score_sde.training.ema import track_power_averages


def make_optimizer(
    *,
    lr: float = DEFAULTS.optim.lr,
    beta1: float = DEFAULTS.optim.beta1,
    beta2: float = DEFAULTS.optim.beta2,
    eps: float = DEFAULTS.optim.eps,
    weight_decay: float = DEFAULTS.optim.weight_decay,
    warmup: int = DEFAULTS.optim.warmup,
    grad_clip: float = DEFAULTS.optim.grad_clip,
    schedule: Literal["constant", "cosine"] = DEFAULTS.optim.schedule,
    num_steps: int = DEFAULTS.training.num_steps,
    ema_widths: tuple[float, ...] = DEFAULTS.optim.ema_widths,
) -> optax.GradientTransformation:
    """Adam whose learning rate rises linearly from 0 over ``warmup`` steps, then stays or falls as a cosine.

    Args:
        lr: Learning rate after warm-up.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay; 0 for none.
        warmup: Steps of warm-up; the first update has rate 0, as in the original. 0 for none.
        grad_clip: Global gradient norm above which gradients are scaled down; 0 or less for no clipping.
        schedule: ``"constant"``, or ``"cosine"`` to 0 at ``num_steps``.
        num_steps: Length of the run, for the cosine.
        ema_widths: Relative widths of averages to track, see :func:`~score_sde.training.ema.track_power_averages`.
    """
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(lr, max(num_steps - warmup, 1))
    else:
        after = optax.constant_schedule(lr)
    rate = optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup]) if warmup > 0 else after
    adam = (
        optax.adamw(rate, beta1, beta2, eps, weight_decay=weight_decay)
        if weight_decay
        else optax.adam(rate, beta1, beta2, eps)
    )
    parts = [optax.clip_by_global_norm(grad_clip)] if grad_clip > 0 else []
    parts.append(adam)
    if ema_widths:
        parts.append(track_power_averages(ema_widths))
    return optax.chain(*parts) if len(parts) > 1 else adam
