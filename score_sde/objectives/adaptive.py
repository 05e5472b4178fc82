"""The error of an example in the losses of few-step models, which share an adaptive weight."""

import jax
import jax.numpy as jnp

from score_sde.fields import DEFAULTS
from score_sde.typing import Batch, Number, Times, component, event_sum, static


@component
class AdaptiveError:
    r"""``e / (e + offset)^power`` for the squared error ``e``, with a constant for the denominator in gradients.

    The weight keeps examples with large errors from dominating a batch (Geng et al. 2025, arXiv 2505.13447, eq. 22).
    Its gradient is that of ``e^{1 - power} / (1 - power)`` up to the offset: with 1/2 twice that of the norm of the
    difference, as Geng et al. 2024 (arXiv 2406.14548) have it, with 0 that of the squared error.

    Attributes:
        reduce_mean: Mean of the squares over the event, else half their sum.
        power: 0 for the squared error, below 1.
        offset: Keeps the weight finite.

    >>> error = AdaptiveError(reduce_mean=False, power=0.5, offset=0.0)
    >>> round(float(error(jnp.array([[3.0, 4.0]]))[0]), 4)
    3.5355
    """

    reduce_mean: bool = static(default=DEFAULTS.objective.reduce_mean)
    power: Number = DEFAULTS.objective.adaptive_power
    offset: Number = DEFAULTS.objective.adaptive_offset

    def __call__(self, difference: Batch) -> Times:
        """The error of every example, whose difference is to vanish."""
        square = difference**2
        axes = tuple(range(1, square.ndim))
        error = jnp.mean(square, axis=axes) if self.reduce_mean else 0.5 * event_sum(square)
        return error * jax.lax.stop_gradient((error + self.offset) ** -self.power)
