"""The optimizer: by default Adam as the score-SDE family has it, with linear warm-up and global-norm clipping."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from score_sde.fields import DEFAULTS
from score_sde.fields.training import Optim
from score_sde.outside.parts import Part, Registry
from score_sde.outside.purity import impure
from score_sde.training.ema import track_power_averages
from score_sde.typing import Params

Optimizer: TypeAlias = optax.GradientTransformation
Project: TypeAlias = Callable[[Params], Params]


def make_optimizer(
    optim: Optim = DEFAULTS.optim, *, num_steps: int = DEFAULTS.training.num_steps, project: Project | None = None
) -> Optimizer:
    """The named optimizer with a rate that rises linearly from 0 over ``warmup`` steps, then follows its schedule.

    With a warm-up the first update has rate 0, as in the original.

    The length of the run is for the cosine. After every update the parameters are where ``project`` takes them.
    """
    lr, warmup = optim.lr, optim.warmup
    after = SCHEDULES[optim.schedule].make(optim, max(num_steps - warmup, 1))
    rate = optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup]) if warmup > 0 else after
    named = OPTIMIZERS[optim.name]
    main = named.made(optim.options, learning_rate=rate) if isinstance(named, Part) else named(rate, optim)
    parts = [optax.clip_by_global_norm(optim.grad_clip)] if optim.grad_clip > 0 else []
    parts.append(main)
    if project is not None:
        parts.append(projected(project))
    if optim.ema_widths:
        parts.append(track_power_averages(optim.ema_widths))
    return optax.chain(*parts) if len(parts) > 1 else main


def projected(project: Project) -> Optimizer:
    """Updates after which the parameters are where a projection takes them; comes after all others in a chain.

    As in :func:`optax.keep_params_nonnegative` the update itself is changed, so that whoever follows in the chain, such
    as averages of the parameters, sees what training goes on with.

    >>> tx = projected(lambda params: params / jnp.abs(params))
    >>> float(tx.update(jnp.array(-3.0), tx.init(jnp.array(1.0)), jnp.array(1.0))[0])  # from 1 to -1
    -2.0
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError("A projection of the parameters needs them: call update(updates, state, params).")
        moved = project(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, moved, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adam(rate: optax.Schedule, optim: Optim) -> Optimizer:
    moments, decay = (optim.beta1, optim.beta2, optim.eps), optim.weight_decay
    return optax.adamw(rate, *moments, weight_decay=decay) if decay else optax.adam(rate, *moments)


def _muon(rate: optax.Schedule, optim: Optim) -> Optimizer:
    """Muon for matrices and kernels of convolutions, Adam for the rest."""
    return optax.contrib.muon(
        rate,
        beta=optim.momentum,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        adam_b1=optim.beta1,
        adam_b2=optim.beta2,
        adam_weight_decay=optim.weight_decay,
        consistent_rms=_ADAM_RMS,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_axes, params),
    )


_ADAM_RMS = 0.2  # of an update of Adam, so that one learning rate suits both (Liu et al. 2025, arXiv 2502.16982)


def _axes(parameter: Any) -> Any:
    """The input and output axes of a kernel, whose last axis is the output: all others are its inputs."""
    axes = parameter.ndim
    return optax.contrib.MuonDimensionNumbers(tuple(range(axes - 1)), (axes - 1,)) if axes > 1 else None


def _check_optimizer(part: Part, made: Any) -> None:
    """Check an optimizer of the user's own: updates of the shapes of the parameters, finite, the same every time."""
    if "learning_rate" not in part.parameters and part.parameters:
        raise part.refused(
            f"takes no learning_rate, but {', '.join(part.parameters)}",
            "an optimizer that follows the schedule of config.optim, such as optax:lion",
        )
    if not isinstance(made, optax.GradientTransformation):
        raise part.refused(f"makes a {type(made).__name__}", "an optax.GradientTransformation")
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}

    def step(params: Any) -> Any:
        return made.update(params, made.init(params), params)[0]

    updates = part.calling(jax.jit(step), params)
    if jax.tree.map(jnp.shape, updates) != jax.tree.map(jnp.shape, params):
        raise part.refused("changes the shapes of the parameters", "updates of their shapes")
    if not all(bool(jnp.isfinite(update).all()) for update in jax.tree.leaves(updates)):
        raise part.refused("makes updates that are not finite from gradients of ones", "finite ones")
    if part.calling(impure, step, params):
        raise part.refused("makes other updates from the same gradients the second time", "functions of the gradients")


#: Optimizers by the names of ``config.optim.name``, made from a schedule of the learning rate.
OPTIMIZERS: Mapping[str, Callable[[optax.Schedule, Optim], Optimizer]] = Registry(
    "optim.name", {"adam": _adam, "adamw": _adam, "muon": _muon}, check=_check_optimizer
)


def _inverse_sqrt(optim: Optim) -> optax.Schedule:
    """``lr / sqrt(max(n / decay_after, 1))`` at step ``n``, which the warm-up counts too (Karras et al. 2024).

    It falls from the end of a longer warm-up on.
    """
    first = max(optim.decay_after, optim.warmup)

    def rate(count: Any) -> Any:
        return optim.lr / jnp.sqrt(jnp.maximum((count + optim.warmup) / first, 1.0))

    return rate


class Schedule(NamedTuple):
    """Learning rates after the warm-up, made from the fields of the optimizer and the number of steps."""

    make: Callable[[Optim, int], optax.Schedule]
    of_length: bool  # whether the rate of a step depends on the length of the run


#: The schedules by name.
SCHEDULES: Mapping[str, Schedule] = {
    "constant": Schedule(lambda optim, steps: optax.constant_schedule(optim.lr), of_length=False),
    "cosine": Schedule(lambda optim, steps: optax.cosine_decay_schedule(optim.lr, steps), of_length=True),
    "inverse_sqrt": Schedule(lambda optim, steps: _inverse_sqrt(optim), of_length=False),
}
