r"""Continuous data in units of their own spread.

The columns of a table, the channels of a series and the channels of an image may differ in scale by orders of
magnitude, and a diffusion assumes values of about 1. Every column ``j`` of the last axis is therefore standardized,
``z_j = (x_j - mean_j) / std_j``, which changes densities by a constant,

    log p(x) = log p(z) + log |dz/dx|,         log |dz/dx| = -sum_j n_j log std_j,

where ``n_j`` is the number of values of an event in column ``j``. In bits per dimension it is the mean of ``log2 std``.
"""

import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arguments import Checked
from score_sde.errors import UserError
from score_sde.typing import Number, component, holds, is_known

Values = Float[Array, "... columns"] | Float[np.ndarray, "... columns"]  #: numbers whose last axis has the columns


@component
class Standardization(Checked):
    """The mean and the standard deviation of every column, an entry of the last axis of continuous data.

    Attributes:
        mean: The mean of every column, of shape ``(columns,)``.
        std: The standard deviation of every column, likewise, and above 0.

    >>> standardization = Standardization(mean=np.float32([1.0, 0.0]), std=np.float32([2.0, 0.5]))
    >>> z = standardization.forward(np.float32([[3.0, 1.0]]))
    >>> z.tolist(), standardization.inverse(z).tolist(), standardization.log_det((2,))
    ([[1.0, 2.0]], [[3.0, 1.0]], -0.0)
    """

    mean: Number
    std: Number

    def problems(self) -> Iterator[str]:
        """The sentences about numbers that are not finite, or no standard deviations."""
        if not is_known(self.mean, self.std):
            return
        shapes = np.shape(self.mean), np.shape(self.std)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1 or not shapes[0][0]:
            yield f"mean has shape {shapes[0]} and std {shapes[1]}; expected one number of each for every column."
        if not holds(np.isfinite, self.mean):
            yield f"mean is {self.mean}; expected finite numbers."
        if not holds(lambda std: np.isfinite(std) & (std > 0.0), self.std):
            yield f"std is {self.std}; expected finite numbers above 0."

    @property
    def num_columns(self) -> int:
        """The number of columns."""
        return self.mean.shape[0]

    def forward(self, x: Values) -> Values:
        """The data, standardized: ``(x - mean) / std``.

        Raises:
            UserError: If their last axis does not have the columns.
        """
        mean, std = self._along(x.shape)
        return (x - mean) / std

    def inverse(self, z: Values) -> Values:
        """Standardized data in their own units: ``mean + std z``.

        Raises:
            UserError: If their last axis does not have the columns.
        """
        mean, std = self._along(z.shape)
        return mean + std * z

    def log_det(self, event_shape: tuple[int, ...]) -> Number:
        """``log |dz/dx|`` of an event: what the log-density of ``x`` has more than that of ``z``, in nats.

        Raises:
            UserError: If the last axis of an event does not have the columns.
        """
        self._check(event_shape)
        known = is_known(self.std)
        total = float(np.log(np.asarray(self.std, np.float64)).sum()) if known else jnp.log(self.std).sum()
        return -math.prod(event_shape[:-1]) * total

    def _along(self, shape: tuple[int, ...]) -> tuple[Number, Number]:
        """Mean and standard deviation with as many axes as data of a shape."""
        self._check(shape)
        axes = (*(1 for _ in shape[:-1]), -1)
        return self.mean.reshape(axes), self.std.reshape(axes)

    def _check(self, shape: tuple[int, ...]) -> None:
        if not shape or shape[-1] != self.num_columns:
            raise UserError(
                f"The data have shape {shape}, and {self.num_columns} columns were standardized; expected a last axis "
                f"of {self.num_columns}."
            )
