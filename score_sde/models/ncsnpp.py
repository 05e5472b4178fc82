r"""The U-Net of Song et al. 2021, appendix H: DDPM++ and NCSN++ are its configurations, and DDPM is another.

    condition --> TimeEmbedding ---------------------------------------------.
                                                                             v
    x --> conv --> [ResidualBlock (+ attention)] x blocks --> halve --> ... --> middle
     \___ input pyramid _____________________________________^                  |
                             | skips (one per feature map)                       |
    output <-- head <-- ... <-- [ResidualBlock] x (blocks + 1) (+ attention) <-- double
     ^___ output pyramid _______________________________v

Attention on the way up comes once per level, after its blocks, as in the original, or after every block, as in Ho et
al. 2020.

The data are series, images or volumes: convolutions, normalizations and attention act along all axes but the first and
the last. A size that cannot be halved as often as the network halves it is padded with zeros on both sides, as
convolutions pad at every border, and the output is cropped.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.fields import DEFAULTS
from score_sde.models.blocks import INPUT_PYRAMIDS, OUTPUT_PYRAMIDS, InputPyramid, Maps, OutputPyramid, ResidualBlock
from score_sde.models.layers import (
    ACTIVATIONS,
    NIN_INIT_SCALE,
    AttentionBlock,
    Features,
    GroupNorm,
    Images,
    SpanEmbedding,
    TimeEmbedding,
    check_labels,
    conv3x3,
    ddpm_init,
    from_patches,
    label_embedding,
    to_patches,
    with_waves,
)
from score_sde.models.resampling import Downsample, Kernel, Upsample, downsample, fir_downsample, fir_upsample, upsample
from score_sde.models.sizes import padded_size
from score_sde.objectives.augmentation import NUM_AUGMENTATIONS
from score_sde.typing import Labels, Output, Times

_LOGIT_FEATURES = 32  # of every value, from which its logits are made

Told = Float[Array, "batch kinds"]  # of augmentations
Block = Callable[..., Maps]  # (features, width, resample=None) -> features


class NCSNpp(nn.Module):
    """The DDPM++ / NCSN++ U-Net, with its fields of ``config.model`` (``docs/fields.md``), and three more."""

    features: int = DEFAULTS.model.features
    channel_multipliers: tuple[int, ...] = DEFAULTS.model.channel_multipliers
    num_blocks: int = DEFAULTS.model.num_blocks
    attention_resolutions: tuple[int, ...] = DEFAULTS.model.attention_resolutions
    attention_every_block: bool = DEFAULTS.model.attention_every_block
    dropout: float = DEFAULTS.model.dropout
    embedding: str = DEFAULTS.model.embedding
    fourier_scale: float = DEFAULTS.model.fourier_scale
    num_classes: int = DEFAULTS.model.num_classes
    activation: str = DEFAULTS.model.activation
    resblock_type: str = DEFAULTS.model.resblock_type
    resample_with_conv: bool = DEFAULTS.model.resample_with_conv
    fir: bool = DEFAULTS.model.fir
    fir_kernel: Kernel = DEFAULTS.model.fir_kernel
    progressive: str = DEFAULTS.model.progressive
    progressive_input: str = DEFAULTS.model.progressive_input
    progressive_combine: str = DEFAULTS.model.progressive_combine
    skip_rescale: bool = DEFAULTS.model.skip_rescale
    init_scale: float = DEFAULTS.model.init_scale
    min_group_channels: int = 4  # least number of channels in a group of the normalization
    rescale_input: bool = False  # map inputs from [0, 1] to [-1, 1] first, for data that are not centered
    remat: bool = DEFAULTS.model.remat
    input_frequencies: tuple[int, ...] = DEFAULTS.model.input_frequencies
    damped_waves: bool = DEFAULTS.model.damped_waves
    patch_size: int = DEFAULTS.model.patch_size
    num_outputs: int | None = None  # for every value, along one more axis; ``None`` for one, without that axis
    spans: bool = False  # whether it is told the time between two times too, for average velocities
    augments: bool = False  # whether it is told how its images were changed

    @nn.compact
    def __call__(
        self,
        x: Images,
        condition: Times,
        *,
        label: Labels | None = None,
        span: Times | None = None,
        augmentations: Told | None = None,
        train: bool = False,
    ) -> Output:
        """The network output, of the shape of ``x``, or with a last axis of ``num_outputs``.

        The noise condition is a time or level for positional embeddings, ``log sigma`` for Fourier ones and for damped
        waves. The label ``None``, or -1 for single examples, stands for no class; the span ``None`` stands for 0, and
        the augmentations ``None`` for none.

        Raises:
            UserError: For labels given to a network without classes, and for labels out of range; traced labels out of
                range give NaN.
        """
        if label is not None:
            check_labels(label, self.num_classes)
        if self.rescale_input:
            x = 2.0 * x - 1.0
        size, x = x.shape[1:-1], padded(x, self.patch_size * 2 ** (len(self.channel_multipliers) - 1))
        x = to_patches(x, self.patch_size)
        kernel = self.fir_kernel if self.fir else None
        block = self._make_block(self._embed(condition, label, span, augmentations), train)
        pyramid = INPUT_PYRAMIDS[self.progressive_input](x, kernel, self.progressive_combine, self.skip_rescale)
        width, scale = (1, self.init_scale) if self.num_outputs is None else (_LOGIT_FEATURES, 1.0)
        out = OUTPUT_PYRAMIDS[self.progressive](width * x.shape[-1], self._head, kernel, scale, self.skip_rescale)
        log_noise = condition + math.log(2.0) * self.rescale_input  # of the data as they are seen
        waves = with_waves(x, self.input_frequencies, log_noise if self.damped_waves else None)
        h, skips = self._down(conv3x3(self.features)(waves), block, pyramid)
        h = block(h, h.shape[-1])
        h = self._attend(h)
        h = block(h, h.shape[-1])
        output = cropped(from_patches(out.output(self._up(h, skips, block, out)), self.patch_size), size)
        return output if self.num_outputs is None else self._logits(output)

    def _embed(
        self, condition: Times, label: Labels | None, span: Times | None, augmentations: Told | None
    ) -> Features | None:
        embedding, activation = None, ACTIVATIONS[self.activation]
        if self.embedding != "none":
            embedding = TimeEmbedding(self.features, self.embedding, activation, self.fourier_scale)(condition)
        if self.num_classes:
            classes = label_embedding(self.num_classes, 4 * self.features, label, condition)
            embedding = classes if embedding is None else embedding + classes
        if self.spans:
            spans = SpanEmbedding(self.features, activation, name="span")(span, condition)
            embedding = spans if embedding is None else embedding + spans
        if self.augments:
            told = jnp.zeros((*condition.shape, NUM_AUGMENTATIONS)) if augmentations is None else augmentations
            changes = nn.Dense(4 * self.features, use_bias=False, kernel_init=ddpm_init(), name="augmentations")(told)
            embedding = changes if embedding is None else embedding + changes
        return embedding

    def _make_block(self, embedding: Features | None, train: bool) -> Block:
        # The static argument is ``train``; position 0 is the module itself. The name keeps the parameters' paths.
        cls = nn.remat(ResidualBlock, static_argnums=(3,)) if self.remat else ResidualBlock
        cls.__name__ = ResidualBlock.__name__
        make = functools.partial(
            cls,
            activation=ACTIVATIONS[self.activation],
            dropout=self.dropout,
            skip_rescale=self.skip_rescale,
            init_scale=self.init_scale,
            shortcut_init_scale=NIN_INIT_SCALE if self.resblock_type == "ddpm" else 1.0,
            min_group_channels=self.min_group_channels,
        )
        return lambda h, width, resample=None: make(features=width, resample=resample)(h, embedding, train)

    def _down(self, h: Maps, block: Block, pyramid: InputPyramid) -> tuple[Maps, list[Maps]]:
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            for _ in range(self.num_blocks):
                h = self._maybe_attend(block(h, self.features * multiplier))
                skips.append(h)
            if level != len(self.channel_multipliers) - 1:
                h = pyramid(self._halve(h, block))
                skips.append(h)
        return h, skips

    def _up(self, h: Maps, skips: list[Maps], block: Block, pyramid: OutputPyramid) -> Maps:
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for index in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), self.features * multiplier)
                if self.attention_every_block or index == self.num_blocks:
                    h = self._maybe_attend(h)
            h = pyramid.level(h)
            if level != 0:
                h = self._double(h, block)
        return h

    def _halve(self, h: Maps, block: Block) -> Maps:
        if self.resblock_type == "ddpm":
            return Downsample(None, self.resample_with_conv, self.fir_kernel if self.fir else None)(h)
        halve = functools.partial(fir_downsample, kernel=self.fir_kernel) if self.fir else downsample
        return block(h, h.shape[-1], halve)

    def _double(self, h: Maps, block: Block) -> Maps:
        if self.resblock_type == "ddpm":
            return Upsample(None, self.resample_with_conv, self.fir_kernel if self.fir else None)(h)
        double = functools.partial(fir_upsample, kernel=self.fir_kernel) if self.fir else upsample
        return block(h, h.shape[-1], double)

    def _attend(self, h: Maps) -> Maps:
        return AttentionBlock(self.skip_rescale, self.init_scale, self.min_group_channels)(h)

    def _maybe_attend(self, h: Maps) -> Maps:
        return self._attend(h) if h.shape[1] in self.attention_resolutions else h

    def _head(self, h: Maps, features: int, scale: float) -> Maps:
        h = ACTIVATIONS[self.activation](GroupNorm(self.min_group_channels)(h))
        return conv3x3(features, scale)(h)

    def _logits(self, h: Maps) -> Output:
        """A few features of every value as many outputs, which start at zero; all values share the weights."""
        h = ACTIVATIONS[self.activation](h.reshape(*h.shape[:-1], -1, _LOGIT_FEATURES))
        return nn.Dense(self.num_outputs or 1, kernel_init=nn.initializers.zeros)(h)


def padded(x: Images, factor: int) -> Maps:
    """Zeros around images, on both sides, up to multiples of a factor."""
    missing = [padded_size(length, factor) - length for length in x.shape[1:-1]]
    if not any(missing):
        return x
    return jnp.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)])


def cropped(x: Images, size: tuple[int, ...]) -> Maps:
    """The middle of images, without what :func:`padded` has added."""
    if x.shape[1:-1] == size:
        return x
    starts = [(length - wanted) // 2 for length, wanted in zip(x.shape[1:-1], size, strict=True)]
    return x[:, *(slice(start, start + wanted) for start, wanted in zip(starts, size, strict=True)), :]


class DDPM(NCSNpp):
    """The U-Net of Ho et al. 2020 (arXiv 2006.11239), as Song et al. 2021 ship it: the same trunk with other defaults.

    Between levels it has convolutions. With ``attention_every_block`` it is the original.
    """

    num_blocks: int = 2
    resblock_type: str = "ddpm"
    skip_rescale: bool = False
    min_group_channels: int = 1
