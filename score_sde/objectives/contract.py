"""The contracts of losses and weightings, checked on those of the user's own when they are made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.outside.parts import Part
from score_sde.outside.purity import impure
from score_sde.processes import Process
from score_sde.typing import Loss, Params


def check_loss(part: Part, loss: Any) -> None:
    """Check that an objective makes losses.

    Raises:
        UserError: If it does not.
    """
    if not isinstance(loss, Loss):
        raise part.refused(f"makes a {type(loss).__name__}", "a score_sde.typing.Loss(draw=..., losses=...)")


def check_losses(part: Part, loss: Loss, params: Params, shape: tuple[int, ...]) -> None:
    """Check the losses of a batch of some shape, as far as shapes and programs tell.

    Raises:
        UserError: With the clause that they break.
    """

    def losses(params: Params, key: Any, batch: Any) -> Any:
        draws, dropout_key = loss.draw(key, batch)
        return loss.losses(params, batch, draws, dropout_key)

    given = (params, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    found = part.calling(jax.eval_shape, losses, *given)
    if getattr(found, "shape", None) != shape[:1] or not jnp.issubdtype(found.dtype, jnp.floating):
        raise part.refused(
            f"has losses of {jax.tree.map(lambda one: (one.shape, str(one.dtype)), found)} for data of shape {shape}",
            f"one loss for each example, {shape[:1]}",
        )
    if part.calling(impure, losses, *given):
        raise part.refused(
            "computes another loss for the same arguments the second time", "random numbers from the key"
        )


def check_weighting(part: Part, weighting: Any, process: Process) -> None:
    """Check a weighting of times: as many weights, finite, 0 or more, and the same every time.

    Raises:
        UserError: With the clause that it breaks.
    """
    t = jnp.linspace(0.01, 1.0, 32)
    weights = part.calling(weighting, process, t)
    if jnp.shape(weights) != t.shape or not jnp.issubdtype(jnp.result_type(weights), jnp.floating):
        raise part.refused(
            f"gives weights of shape {jnp.shape(weights)} for times of {t.shape}", "a weight for each time"
        )
    values = np.asarray(weights)
    if not (np.isfinite(values) & (values >= 0.0)).all() or not values.any():
        raise part.refused(
            f"gives weights from {values.min():g} to {values.max():g}", "finite weights, 0 or more, and not all 0"
        )
    if part.calling(impure, lambda t: weighting(process, t), t):
        raise part.refused("gives other weights for the same times the second time", "a function of process and time")
