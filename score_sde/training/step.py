"""One step of training, as a pure function of state and batch."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from score_sde.training.state import TrainState
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
) -> TrainStep:
    """The training step ``(state, batch) -> (state, metrics)``.

    Args:
        loss_fn: The loss of every example; its mean is minimised.
        tx: The optimiser.
        prepare: Turns the raw batch into continuous data, such as :meth:`Quantization.dequantize`.
        ema_rate: Rate of the moving average of the parameters.
        ema_warmup: See :func:`ema_rate_at`.
    """

    def step(state: TrainState, batch: Array) -> tuple[TrainState, Metrics]:
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        x = prepare(prepare_key, batch)

        def mean_loss(params: Params) -> Scalar:
            return jnp.mean(loss_fn(params, loss_key, x, train=True))

        loss, grads = jax.value_and_grad(mean_loss)(state.params)
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

    ``unroll`` writes the steps out one after another. A CPU needs that: inside a loop XLA computes the weight
    gradients of convolutions dozens of times slower there.
    """

    def steps(state: TrainState, batches: Array) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(step, state, batches, unroll=batches.shape[0] if unroll else 1)

    return steps
