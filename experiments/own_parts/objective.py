"""An objective: the pseudo-Huber loss of an error, which counts large errors less."""

from typing import Any

import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict
from score_sde.objectives import score_matching_loss
from score_sde.typing import Loss, Times


def pseudo_huber(
    process: Any, network: Any, parameterization: Any, times: Any, weighting: Any, at: float = 1.0
) -> Loss:
    """``at (sqrt(1 + 2 loss / at) - 1)``: the loss of score matching where it is well below ``at``, else its root."""
    plain = score_matching_loss(process, network, parameterization, times=times, weighting=weighting)

    def losses(*given: Any) -> Times:
        return at * (jnp.sqrt(1.0 + 2.0 * plain.losses(*given) / at) - 1.0)

    return Loss(plain.draw, losses)


def get_config() -> ConfigDict:
    """From 0.5 on."""
    config = small()
    config.objective.kind = "objective:pseudo_huber"
    config.objective.options.at = 0.5
    return config
