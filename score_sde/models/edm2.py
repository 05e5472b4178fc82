r"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, arXiv 2312.02696, configuration G).

    condition --> FourierFeatures --> dense --------------------------------------.
                                                                                   v
    x, 1 --> conv --> [Block (+ attention)] x blocks --> halve --> ... --> Block, attention, Block
                             | skips (one per feature map)                         |
    gain * conv <-- ... <-- [Block (+ attention)] x (blocks + 1) <-- double <------'

There are neither biases nor normalizations that know the data: a channel of ones stands for the former, and the latter
are of the weights, and of every pixel on the way down. The output begins at zero by its gain.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.fields import DEFAULTS
from score_sde.models.dropout import Dropout
from score_sde.models.layers import Features, Images, check_labels
from score_sde.models.magnitudes import (
    ClassVectors,
    CosineAttention,
    FourierFeatures,
    Maps,
    MPConv,
    MPDense,
    mp_cat,
    mp_silu,
    mp_sum,
    unit,
)
from score_sde.models.ncsnpp import cropped, padded
from score_sde.models.pixels import per_pixel
from score_sde.models.resampling import downsample, upsample
from score_sde.typing import Labels, Output, Times

_SHARE = 0.3  # of a branch in the sum with its input
_LARGEST = 256.0  # activations, of which few are far above 1


class Block(nn.Module):
    """Two convolutions beside a skip connection, with a factor by the noise embedding in between; then attention."""

    features: int
    attention: bool = False
    down: bool = False  # whether pixels are normalized at the start, as on the way down
    resample: Callable[[Array], Array] | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Maps, embedding: Features, train: bool) -> Maps:
        """The sum of both branches."""
        x = x if self.resample is None else self.resample(x)
        if self.down:
            x = unit(self._fitting(x), -1)
        h = MPConv(self.features)(mp_silu(x))
        gain = self.param("gain", nn.initializers.zeros, ())
        factor = 1.0 + gain * MPDense(self.features, name="embedding")(embedding)
        h = Dropout(self.dropout)(mp_silu(h * per_pixel(factor, h.shape[1:-1])), train)
        h = MPConv(self.features)(h)
        x = mp_sum(x if self.down else self._fitting(x), h, _SHARE)
        if self.attention:
            x = CosineAttention(_SHARE)(x)
        return jnp.clip(x, -_LARGEST, _LARGEST)

    def _fitting(self, x: Maps) -> Maps:
        return x if x.shape[-1] == self.features else MPDense(self.features, name="skip")(x)


class EDM2(nn.Module):
    """The magnitude-preserving U-Net, with its fields of ``config.model`` (``docs/fields.md``)."""

    features: int = DEFAULTS.model.features
    channel_multipliers: tuple[int, ...] = DEFAULTS.model.channel_multipliers
    num_blocks: int = DEFAULTS.model.num_blocks
    attention_resolutions: tuple[int, ...] = DEFAULTS.model.attention_resolutions
    dropout: float = DEFAULTS.model.dropout
    fourier_scale: float = DEFAULTS.model.fourier_scale
    num_classes: int = DEFAULTS.model.num_classes
    remat: bool = DEFAULTS.model.remat
    rescale_input: bool = False  # map inputs from [0, 1] to [-1, 1] first, for data that are not centered

    @nn.compact
    def __call__(self, x: Images, condition: Times, *, label: Labels | None = None, train: bool = False) -> Output:
        """The network output, of the shape of ``x``; labels as in :class:`~score_sde.models.ncsnpp.NCSNpp`.

        Raises:
            UserError: For labels given to a network without classes, and for labels out of range.
        """
        if label is not None:
            check_labels(label, self.num_classes)
        if self.rescale_input:
            x = 2.0 * x - 1.0
        size, channels, embedding = x.shape[1:-1], x.shape[-1], self._embed(condition, label)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        x = padded(x, 2 ** (len(self.channel_multipliers) - 1))
        cls = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        cls.__name__ = Block.__name__  # which keeps the parameters' paths
        make = functools.partial(cls, dropout=self.dropout)

        def block(h: Maps, width: int, *, attends: bool = False, **more: object) -> Maps:
            return make(features=width, attention=attends, **more)(h, embedding, train)

        h, skips = self._down(x, functools.partial(block, down=True))
        h = block(h, h.shape[-1], attends=True)
        h = self._up(block(h, h.shape[-1]), skips, block)
        gain = self.param("gain", nn.initializers.zeros, ())
        return cropped(gain * MPConv(channels)(h), size)

    def _embed(self, condition: Times, label: Labels | None) -> Features:
        width = self.features * max(self.channel_multipliers)
        noise = FourierFeatures(self.features * self.channel_multipliers[0], self.fourier_scale)(condition)
        h = MPDense(width)(noise)
        if self.num_classes:
            h = mp_sum(h, ClassVectors(self.num_classes, width)(label, condition), 0.5)
        return mp_silu(h)

    def _down(self, x: Maps, block: Callable[..., Maps]) -> tuple[Maps, list[Maps]]:
        h = MPConv(self.features * self.channel_multipliers[0])(x)
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            if level:
                h = block(h, h.shape[-1], resample=downsample)
                skips.append(h)
            for _ in range(self.num_blocks):
                h = block(h, self.features * multiplier, attends=self._attends(h))
                skips.append(h)
        return h, skips

    def _up(self, h: Maps, skips: list[Maps], block: Callable[..., Maps]) -> Maps:
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for _ in range(self.num_blocks + 1):
                h = block(mp_cat(h, skips.pop()), self.features * multiplier, attends=self._attends(h))
            if level:
                h = block(h, h.shape[-1], resample=upsample)
        return h

    def _attends(self, h: Maps) -> bool:
        return h.shape[1] in self.attention_resolutions
