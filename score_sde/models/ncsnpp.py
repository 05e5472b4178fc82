"""The U-Net of Song et al. 2021, appendix H: DDPM++ and NCSN++ are its configurations.

    condition --> TimeEmbedding --------------------------------------------.
                                                                            v
    x --> conv --> [ResidualBlock (+ attention)] x blocks --> down --> ... --> middle
                             | skips (one per feature map)                      |
    output <-- conv <-- ... <-- [ResidualBlock] x (blocks + 1) (+ attention) <-- up

Attention on the way up comes once per level, after its blocks, as in the original.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.models.layers import (
    ACTIVATIONS,
    AttentionBlock,
    GroupNorm,
    Images,
    ResidualBlock,
    TimeEmbedding,
    conv3x3,
    downsample,
    upsample,
)
from score_sde.typing import Times

Maps = Float[Array, "_ _ _ _"]  # feature maps of any size: it changes from level to level
Resample = Callable[[Array], Array]
Block = Callable[..., Maps]  # (features, width, resample=None) -> features


class NCSNpp(nn.Module):
    """The DDPM++ / NCSN++ U-Net.

    Attributes:
        features: Channels at the highest resolution (``nf``).
        channel_multipliers: Channels per level, as multiples of ``features`` (``ch_mult``).
        num_blocks: Residual blocks per level on the way down; one more on the way up.
        attention_resolutions: Feature-map heights that carry self-attention.
        dropout: Dropout rate inside the residual blocks.
        embedding: ``"positional"``, ``"fourier"`` or ``"none"`` (no noise conditioning).
        fourier_scale: Standard deviation of the Fourier frequencies.
        activation: ``elu``, ``relu``, ``lrelu`` or ``swish``.
        skip_rescale: Divide residual sums by sqrt 2.
        init_scale: Initial scale of each branch's last convolution.
    """

    features: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    embedding: str = "positional"
    fourier_scale: float = 16.0
    activation: str = "swish"
    skip_rescale: bool = True
    init_scale: float = 0.0

    @nn.compact
    def __call__(self, x: Images, condition: Times, *, train: bool = False) -> Images:
        """The network output, of the shape of ``x``."""
        activation, embedding = ACTIVATIONS[self.activation], None
        if self.embedding != "none":
            embedding = TimeEmbedding(self.features, self.embedding, activation, self.fourier_scale)(condition)

        def block(h: Maps, width: int, resample: Resample | None = None) -> Maps:
            module = ResidualBlock(width, activation, self.dropout, resample, self.skip_rescale, self.init_scale)
            return module(h, embedding, train=train)

        h = conv3x3(self.features)(x)
        h, skips = self._down(h, block)
        h = block(h, h.shape[-1])
        h = self._attend(h)
        h = block(h, h.shape[-1])
        h = self._up(h, skips, block)
        return conv3x3(x.shape[-1], self.init_scale)(activation(GroupNorm()(h)))

    def _down(self, h: Maps, block: Block) -> tuple[Maps, list[Maps]]:
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            for _ in range(self.num_blocks):
                h = self._maybe_attend(block(h, self.features * multiplier))
                skips.append(h)
            if level != len(self.channel_multipliers) - 1:
                h = block(h, h.shape[-1], downsample)
                skips.append(h)
        return h, skips

    def _up(self, h: Maps, skips: list[Maps], block: Block) -> Maps:
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for _ in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), self.features * multiplier)
            h = self._maybe_attend(h)
            if level != 0:
                h = block(h, h.shape[-1], upsample)
        return h

    def _attend(self, h: Images) -> Images:
        return AttentionBlock(self.skip_rescale, self.init_scale)(h)

    def _maybe_attend(self, h: Images) -> Images:
        return self._attend(h) if h.shape[1] in self.attention_resolutions else h
