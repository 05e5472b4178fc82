"""One step of training, as a pure function of state and batch."""

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from score_sde.distributed import replicated, state_sharding
from score_sde.errors import UserError
from score_sde.fields import Settings
from score_sde.fields.training import DISPATCHED, Loop
from score_sde.labels import Labeled, on_data
from score_sde.objectives import augmented
from score_sde.state import TrainState
from score_sde.typing import Loss, Metrics, Params, PRNGKey, Scalar

Examples: TypeAlias = Array | Labeled
Prepare = Callable[[PRNGKey, Any], Any]

_FEW = 5  # steps of a call where the settings leave it open


@runtime_checkable
class TrainStep(Protocol):
    """Maps the state and a batch of raw data to the next state and the metrics of the step."""

    def __call__(self, state: TrainState, batch: Examples, /) -> tuple[TrainState, Metrics]:
        """One step, or several for a stack of batches."""
        ...


def update_ema(ema: Params, params: Params, rate: Scalar | float) -> Params:
    """The exponential moving average ``rate ema + (1 - rate) params``."""
    return jax.tree.map(lambda average, value: rate * average + (1.0 - rate) * value, ema, params)


def ema_rate_at(step: Int[Array, ""], rate: float, *, warmup: bool) -> Scalar | float:
    """The rate at a step: constant, or ``min(rate, (1 + n) / (10 + n))`` so that a short run forgets its start."""
    return jnp.minimum(rate, (1.0 + step) / (10.0 + step)) if warmup else rate


def make_train_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    prepare: Prepare,
    ema_rate: float,
    ema_warmup: bool = False,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> TrainStep:
    """The training step ``(state, batch) -> (state, metrics)``.

    The mean of the loss is minimized. ``prepare`` maps the raw batch to continuous data, for example
    :meth:`Quantization.dequantize`; of a batch with labels its examples. A gradient is accumulated over parts, whose
    random numbers are drawn for the whole batch, so that the parts change only dropout. With the mesh the state may be
    sharded: every device then computes with whole parameters and keeps its shard of the gradient.
    """

    def gradient(loss: Loss, params: Params, key: PRNGKey, x: Examples) -> tuple[Scalar, Params]:
        # Without these constraints XLA splits the channels of the activations like the parameters, and moves
        # activations between devices in dozens of messages.
        whole = params if mesh is None else jax.lax.with_sharding_constraint(params, replicated(mesh))

        draws, dropout_key = loss.draw(key, x)

        def gradient_of(x: Examples, draws: Any, dropout_key: PRNGKey) -> tuple[Scalar, Params]:
            def mean_loss(params: Params) -> Scalar:
                return jnp.mean(loss.losses(params, x, draws, dropout_key))

            value, grads = jax.value_and_grad(mean_loss)(whole)
            if mesh is not None:
                grads = jax.lax.with_sharding_constraint(grads, state_sharding(mesh, grads))
            return value, grads

        def of_part(index: Int[Array, ""] | int) -> tuple[Scalar, Params]:
            part, own = part_of((x, draws), index, accumulate)
            return gradient_of(part, own, jax.random.fold_in(dropout_key, index))

        def add(total: tuple[Scalar, Params], index: Int[Array, ""]) -> tuple[tuple[Scalar, Params], None]:
            return jax.tree.map(jnp.add, total, of_part(index)), None

        if accumulate == 1:
            return gradient_of(x, draws, dropout_key)

        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_part, 0))
        total, _ = jax.lax.scan(add, start, jnp.arange(accumulate))
        return jax.tree.map(lambda value: value / accumulate, total)

    def step(state: TrainState, batch: Examples) -> tuple[TrainState, Metrics]:
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        x = on_data(lambda data: prepare(prepare_key, data), batch)
        value, grads = gradient(loss.at(state.step), state.params, loss_key, x)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        rate = ema_rate_at(state.step, ema_rate, warmup=ema_warmup)
        next_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=update_ema(state.ema_params, params, rate),
            opt_state=opt_state,
            key=state.key,
        )
        return next_state, {"loss": value, "grad_norm": optax.tree.norm(grads)}

    return step


def configured_step(
    config: Settings, loss: Loss, tx: optax.GradientTransformation, *, prepare: Prepare, mesh: Mesh
) -> TrainStep:
    """The training step of a loss of the network, as the fields of the optimizer and of the training say.

    With ``objective.augment_probability`` the loss is of augmented images.
    """
    if config.objective.augment_probability and config.reads("objective.augment_probability"):
        loss = augmented(loss, config.objective.augment_probability)
    return make_train_step(
        loss,
        tx,
        prepare=prepare,
        ema_rate=config.optim.ema_rate,
        ema_warmup=config.optim.ema_warmup,
        accumulate=config.training.accumulate,
        mesh=mesh,
    )


def part_of(batch: Any, index: Int[Array, ""] | int, count: int) -> Any:
    """Every ``count``-th example from ``index`` on, of all arrays of a tree.

    Neighboring examples go to different parts, so the parts of a sharded batch are sharded alike.

    >>> part_of(jnp.arange(6), 1, 3).tolist()
    [1, 4]
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:])[:, index], batch)


def steps_per_dispatch(settings: Loop, platform: str, start: int) -> int:
    """How many steps a call of the program makes in a training that goes on from a step.

    A program's arrays are memory that the system has cleared, and on a CPU it is given back after each call: a tenth of
    a training step. Where the settings leave it open, a call therefore makes a few steps. It makes no more, since a
    signal waits for its end.

    Raises:
        UserError: If the steps of the settings do not lead from the start to the end.
    """
    count = settings.steps_per_dispatch
    if count and start % count and start < settings.num_steps:
        raise UserError(
            f"The run goes on from step {start} and steps_per_dispatch is {count}; expected a divisor of {start}, such "
            f"as {math.gcd(start, count)}, or 0 to have it chosen."
        )
    if count or platform != "cpu":
        return count or 1
    unit = math.gcd(start, *(settings.get(name, 0) for name in DISPATCHED))
    return max(number for number in range(1, _FEW + 1) if unit % number == 0)


def repeat_step(step: TrainStep) -> TrainStep:
    """Several steps per dispatch: scan ``step`` over a leading axis of the batch; metrics are stacked."""

    def steps(state: TrainState, batches: Examples) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(step, state, batches)

    return steps
