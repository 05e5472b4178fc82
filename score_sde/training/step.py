"""One step of training, as a pure function of state and batch."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from score_sde.distributed import loops_are_slow, replicated, state_sharding
from score_sde.state import TrainState
from score_sde.typing import Batch, LossFn, Metrics, Params, PRNGKey, Scalar

Prepare = Callable[[PRNGKey, Array], Batch]


@runtime_checkable
class TrainStep(Protocol):
    """From state and a batch of raw data to the next state and the metrics of the step."""

    def __call__(self, state: TrainState, batch: Array, /) -> tuple[TrainState, Metrics]:
        """One step, or several for a stack of batches."""
        ...


def update_ema(ema: Params, params: Params, rate: Scalar | float) -> Params:
    """The exponential moving average ``rate ema + (1 - rate) params``."""
    return jax.tree.map(lambda average, value: rate * average + (1.0 - rate) * value, ema, params)


def ema_rate_at(step: Int[Array, ""], rate: float, *, warmup: bool) -> Scalar | float:
    """The rate at a step: constant, or ``min(rate, (1 + n) / (10 + n))`` so that a short run forgets its start."""
    return jnp.minimum(rate, (1.0 + step) / (10.0 + step)) if warmup else rate


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    prepare: Prepare,
    ema_rate: float,
    ema_warmup: bool = False,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> TrainStep:
    """The training step ``(state, batch) -> (state, metrics)``.

    Args:
        loss_fn: The loss of every example; its mean is minimised.
        tx: The optimiser.
        prepare: Turns the raw batch into continuous data, such as :meth:`Quantization.dequantize`.
        ema_rate: Rate of the moving average of the parameters.
        ema_warmup: See :func:`ema_rate_at`.
        accumulate: In how many parts the gradient is computed; times and noise are those of the whole batch, so that
            the parts change nothing but dropout.
        mesh: The devices, where a state may be split: every device then computes with whole parameters, and keeps its
            part of their gradient.
    """
    unroll = loops_are_slow(mesh)

    def gradient(params: Params, key: PRNGKey, x: Array) -> tuple[Scalar, Params]:
        whole = params if mesh is None else jax.lax.with_sharding_constraint(params, replicated(mesh))

        def of_part(index: Int[Array, ""] | int) -> tuple[Scalar, Params]:
            part = {} if accumulate == 1 else {"part": (index, accumulate)}

            def mean_loss(params: Params) -> Scalar:
                return jnp.mean(loss_fn(params, key, x, train=True, **part))

            loss, grads = jax.value_and_grad(mean_loss)(whole)
            if mesh is not None:
                grads = jax.lax.with_sharding_constraint(grads, state_sharding(mesh, grads))
            return loss, grads

        if accumulate == 1:
            return of_part(0)

        def add(total: tuple[Scalar, Params], index: Int[Array, ""]) -> tuple[tuple[Scalar, Params], None]:
            return jax.tree.map(jnp.add, total, of_part(index)), None

        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_part, 0))
        total, _ = jax.lax.scan(add, start, jnp.arange(accumulate), unroll=accumulate if unroll else 1)
        return jax.tree.map(lambda value: value / accumulate, total)

    def step(state: TrainState, batch: Array) -> tuple[TrainState, Metrics]:
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        loss, grads = gradient(state.params, loss_key, prepare(prepare_key, batch))
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
        return next_state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

    return step


def repeat_step(step: TrainStep, *, unroll: bool) -> TrainStep:
    """Several steps per dispatch: scan ``step`` over a leading axis of the batch; metrics are stacked.

    ``unroll`` writes the steps out one after another; see :func:`~score_sde.distributed.loops_are_slow`.
    """

    def steps(state: TrainState, batches: Array) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(step, state, batches, unroll=batches.shape[0] if unroll else 1)

    return steps
