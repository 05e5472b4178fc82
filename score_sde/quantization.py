r"""Discrete images as continuous data, and bits per dimension.

An image with ``K`` gray levels ``k in {0, ..., K - 1}`` is dequantized to ``(k + u) / K`` with uniform noise ``u`` in
``[0, 1)`` (Uria et al. 2013; Theis et al. 2016, arXiv 1511.01844) and scaled to ``[-1, 1]`` (centered) or ``[0, 1]``.
By Jensen's inequality the negative continuous log-likelihood then bounds the discrete image's, in bits per dimension

    -log p(x) / (d log 2) + log2(K / width),

where ``width`` is 2 or 1, the length of the interval. For 256 levels the offset is the familiar 7 (centered) or 8.
Continuous data have neither levels nor noise, and may be standardized
(:class:`~score_sde.standardization.Standardization`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.arguments import Checked, not_masked, not_whole
from score_sde.errors import UserError, refuse
from score_sde.standardization import Standardization
from score_sde.typing import Batch, PRNGKey, Times, component, holds, static

_MANY = 64  # values: chance does not put so many into the brighter half


@component
class Quantization(Checked):
    """The gray levels of a data set and the interval its pixels are scaled to.

    Attributes:
        num_grey_levels: Number of gray levels ``K``, 2 or more; ``None`` for continuous data.
        centered: Scale to ``[-1, 1]`` if true, else to ``[0, 1]``.
        standardization: Scale of continuous data, which gray levels do not have; ``None`` for data as they are.
    """

    num_grey_levels: int | None = static(default=256)
    centered: bool = static(default=True)
    standardization: Standardization | None = None

    def problems(self) -> Iterator[str]:
        """The sentences about an invalid number of levels, and about levels that are standardized."""
        if self.num_grey_levels is not None and list(not_whole("num_grey_levels", self.num_grey_levels, 2)):
            yield f"num_grey_levels is {self.num_grey_levels}, which is no partition; expected 2 or more, or None."
        if self.num_grey_levels is not None and self.standardization is not None:
            yield f"The data have {self.num_grey_levels} gray levels and a standardization; expected one of the two."

    @property
    def width(self) -> float:
        """Length of the interval that pixels lie in."""
        return 2.0 if self.centered else 1.0

    @property
    def offset(self) -> float:
        """``log2(K / width)``; of continuous data the mean of ``log2 std`` over the columns, or zero.

        >>> Quantization(num_grey_levels=256).offset, Quantization(num_grey_levels=256, centered=False).offset
        (7.0, 8.0)
        """
        if self.num_grey_levels is not None:
            return math.log2(self.num_grey_levels / self.width)
        known = self.standardization
        return 0.0 if known is None else -known.log_det((known.num_columns,)) / (known.num_columns * math.log(2.0))

    def dequantize(self, key: PRNGKey, levels: Array) -> Batch:
        """Levels plus uniform noise, scaled: ``(k + u) / K``; continuous data are standardized, if at all.

        Raises:
            UserError: If the levels are not whole numbers from 0 to ``K - 1``, as far as they can be read.
        """
        if self.num_grey_levels is None:
            return self._standardized(levels)
        return self.place(levels, jax.random.uniform(key, levels.shape))

    def place(self, levels: Array, u: Batch) -> Batch:
        """Levels at the places ``u`` in ``[0, 1)`` of their bins, ``(k + u) / K``, scaled.

        Raises:
            UserError: If the data are continuous and have no bins, or if the levels are not whole numbers from 0 to
                ``K - 1``, as far as they can be read.

        >>> Quantization(num_grey_levels=2).place(jnp.array([[0, 1]]), jnp.array([[0.5, 0.0]])).tolist()
        [[-0.5, 0.0]]
        """
        self.check_levels(levels)
        assert self.num_grey_levels is not None
        return self._scale((levels.astype(u.dtype) + u) / self.num_grey_levels)

    def check(self, x: Array) -> None:
        """Refuse data that are not dequantized images of this kind, whose likelihood would have no bound.

        Raises:
            UserError: If ``x`` are integers, lie outside the declared interval, or have no noise in their bins.

        >>> Quantization(num_grey_levels=256, centered=False).check(jnp.array([[0.0, 1.0]]) / 255)
        Traceback (most recent call last):
        ...
        score_sde.errors.UserError: The data have no noise: ...
        """
        values, low = np.asarray(x), 1.0 - self.width
        if not np.issubdtype(values.dtype, np.floating):
            raise UserError(
                f"The data are {values.dtype}; expected dequantized ones, as Quantization.dequantize makes."
            )
        if self.num_grey_levels is None or values.size == 0:
            return
        if not ((values >= low - 1e-6) & (values <= 1.0 + 1e-6)).all():
            raise UserError(
                f"The data lie between {values.min():g} and {values.max():g}; expected {low:g} to 1, the declared "
                f"range (centered={self.centered})."
            )
        for scale, unit in (("-1", 0.5 * (values + 1.0)), ("0", values)):
            if self._on_lattice(unit):
                raise UserError(
                    f"The data have no noise: they are {self.num_grey_levels} gray levels, scaled to {scale} to 1. A "
                    "density could be infinite there; expected x = Quantization.dequantize(key, levels)."
                )
        # Bright images have nothing below the middle, and nothing dark above it.
        if self.centered and values.size >= _MANY and 0.0 <= values.min() < 1.0 / 16.0:
            raise UserError(
                f"The {values.size} values of the data lie between {values.min():.3g} and {values.max():.3g}, and none "
                "of them is in the darker half of -1 to 1; expected centered=False for data from 0 to 1."
            )

    def _on_lattice(self, unit: np.ndarray) -> bool:
        """Whether values are gray levels that were divided by K or by K - 1, or put into the middle of their bins."""
        assert self.num_grey_levels is not None
        choices = (unit * self.num_grey_levels, unit * (self.num_grey_levels - 1), unit * self.num_grey_levels - 0.5)
        return any(np.abs(places - np.round(places)).max() < 1e-3 for places in choices)

    def check_levels(self, levels: Array | np.ndarray) -> None:
        """Refuse what are no gray levels of this kind.

        Raises:
            UserError: If the data are continuous, or the levels masked or not whole numbers from 0 to ``K - 1``, as far
                as they can be read.
        """
        refuse(not_masked("levels", levels))
        if self.num_grey_levels is None:
            raise UserError("The data are continuous and have no bins to draw noise in; expected gray levels.")
        if not (jnp.issubdtype(levels.dtype, jnp.integer) or levels.dtype == jnp.bool_):
            raise UserError(f"The gray levels are of type {levels.dtype}; expected whole numbers.")
        if not holds(lambda levels: (levels >= 0) & (levels < self.num_grey_levels), levels):
            values = np.asarray(levels)
            raise UserError(
                f"The gray levels lie between {values.min()} and {values.max()}; expected 0 to "
                f"{self.num_grey_levels - 1}."
            )

    def midpoints(self, levels: Array) -> Batch:
        """Levels at the middle of their bins, ``(k + 1/2) / K``, scaled: the deterministic choice."""
        if self.num_grey_levels is None:
            return self._standardized(levels)
        return self._scale((levels.astype(jnp.float32) + 0.5) / self.num_grey_levels)

    def all_midpoints(self, x: Batch) -> Array:
        """The middles of the bins of all levels, along one more axis than data that they are compared with.

        >>> Quantization(num_grey_levels=2).all_midpoints(jnp.zeros((3, 4))).tolist()
        [[[-0.5, 0.5]]]
        """
        assert self.num_grey_levels is not None
        middles = self.midpoints(jnp.arange(self.num_grey_levels)).astype(x.dtype)
        return middles.reshape((1,) * x.ndim + (-1,))

    def unscaled(self, x: Batch) -> Batch:
        """Scaled data in their own units, the inverse of :meth:`midpoints`: gray levels too come as floats.

        >>> quantization = Quantization(num_grey_levels=4)
        >>> quantization.unscaled(quantization.midpoints(jnp.array([[0.0, 3.0]]))).tolist()
        [[0.0, 3.0]]
        """
        if self.num_grey_levels is None:
            return x if self.standardization is None else jnp.asarray(self.standardization.inverse(x))
        unit = (x + 1.0) / 2.0 if self.centered else x
        return unit * self.num_grey_levels - 0.5

    def quantize(self, x: Array | np.ndarray) -> np.ndarray:
        """The levels of the bins that contain the values, clipped to valid ones; continuous data in their own units.

        Up to 256 levels come as bytes, the type of images everywhere.
        """
        values = np.asarray(x)
        if self.num_grey_levels is None:
            return values if self.standardization is None else np.asarray(self.standardization.inverse(values))
        unit = (values + 1.0) / 2.0 if self.centered else values
        return np.clip(np.floor(unit * self.num_grey_levels), 0, self.num_grey_levels - 1).astype(
            np.uint8 if self.num_grey_levels <= 256 else np.int32
        )

    def bits_per_dim(self, logp: Times, dim: int) -> Times:
        """Negative log-likelihood in bits per dimension of the data themselves, from nats of the scaled data.

        Raises:
            UserError: If there are no dimensions.

        >>> float(Quantization(num_grey_levels=256).bits_per_dim(jnp.zeros(1), 4)[0])
        7.0
        """
        refuse(not_whole("dim", dim, 1))
        return -logp / (dim * math.log(2.0)) + self.offset

    def _scale(self, unit: Batch) -> Batch:
        return 2.0 * unit - 1.0 if self.centered else unit

    def _standardized(self, x: Array) -> Batch:
        single = x.astype(jnp.float32)
        return single if self.standardization is None else jnp.asarray(self.standardization.forward(single))


#: Where gray levels are placed for training, as functions of quantization, key and levels: anywhere in their bins, as
#: likelihoods of dequantized images need, or at the middle, as a decoder over the levels and truncated normal noise do.
PLACES: Mapping[str, Callable[[Quantization, PRNGKey, Array], Batch]] = MappingProxyType(
    {"bins": Quantization.dequantize, "midpoints": lambda quantization, key, levels: quantization.midpoints(levels)}
)

#: Continuous data.
CONTINUOUS = Quantization(num_grey_levels=None)
