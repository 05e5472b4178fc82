r"""Discrete images as continuous data, and the one place that knows bits per dimension.

An image with ``K`` grey levels ``k in {0, ..., K - 1}`` is dequantised to ``(k + u) / K`` with uniform noise ``u`` in
``[0, 1)`` (Uria et al. 2013; Theis et al. 2016, arXiv 1511.01844) and scaled to ``[-1, 1]`` (centred) or ``[0, 1]``. By
Jensen's inequality the negative continuous log-likelihood then bounds that of the discrete image, in bits per
dimension

    -log p(x) / (d log 2) + log2(K / width),

where ``width`` is 2 or 1, the length of the interval. For 256 levels the offset is the familiar 7 (centred) or 8.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.typing import Batch, PRNGKey, Times, component, static


@component
class Quantization:
    """The grey levels of a data set and the interval its pixels are scaled to.

    Attributes:
        num_levels: Number of grey levels ``K``; ``None`` for data that are continuous to begin with.
        centered: Scale to ``[-1, 1]`` if true, else to ``[0, 1]``.
    """

    num_levels: int | None = static(default=256)
    centered: bool = static(default=True)

    @property
    def width(self) -> float:
        """Length of the interval that pixels lie in."""
        return 2.0 if self.centered else 1.0

    @property
    def offset(self) -> float:
        """``log2(K / width)``; zero for continuous data.

        >>> Quantization(num_levels=256).offset, Quantization(num_levels=256, centered=False).offset
        (7.0, 8.0)
        """
        return 0.0 if self.num_levels is None else math.log2(self.num_levels / self.width)

    def dequantize(self, key: PRNGKey, levels: Array) -> Batch:
        """Levels plus uniform noise, scaled: ``(k + u) / K``; continuous data pass unchanged."""
        levels = levels.astype(jnp.float32)
        if self.num_levels is None:
            return levels
        return self._scale((levels + jax.random.uniform(key, levels.shape)) / self.num_levels)

    def midpoints(self, levels: Array) -> Batch:
        """Levels at the middle of their bins, ``(k + 1/2) / K``, scaled: the deterministic choice."""
        levels = levels.astype(jnp.float32)
        return levels if self.num_levels is None else self._scale((levels + 0.5) / self.num_levels)

    def quantize(self, x: Array | np.ndarray) -> np.ndarray:
        """The levels whose bins the values fall into, clipped to the valid ones; continuous data pass unchanged."""
        values = np.asarray(x)
        if self.num_levels is None:
            return values
        unit = (values + 1.0) / 2.0 if self.centered else values
        return np.clip(np.floor(unit * self.num_levels), 0, self.num_levels - 1).astype(np.int32)

    def bits_per_dim(self, logp: Times, dim: int) -> Times:
        """Negative log-likelihood in bits per dimension of the discrete data, from nats of the scaled data.

        >>> float(Quantization(num_levels=256).bits_per_dim(jnp.zeros(1), 4)[0])
        7.0
        """
        return -logp / (dim * math.log(2.0)) + self.offset

    def _scale(self, unit: Batch) -> Batch:
        return 2.0 * unit - 1.0 if self.centered else unit
