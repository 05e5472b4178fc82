"""The residual block of the U-Nets, and the optional pyramids beside their trunk (Song et al. 2021, appendix H).

A pyramid is a policy that the U-Net calls once per level. It is not a module: its layers belong to the network, under
their names in the published checkpoints.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.fields import DEFAULTS
from score_sde.models.dropout import Dropout
from score_sde.models.layers import Activation, Features, GroupNorm, Images, Pointwise, conv3x3, ddpm_init, residual_sum
from score_sde.models.pixels import add_everywhere
from score_sde.models.resampling import Downsample, Kernel, Upsample

Maps = Float[Array, "_ ... _"]  # feature maps of any size: it changes from level to level


class ResidualBlock(nn.Module):
    """Two normalized convolutions beside a skip connection, with a shift by the noise embedding in between."""

    features: int
    activation: Activation
    dropout: float = 0.0  # rate, active when ``train``
    # A function that halves or doubles both branches, or ``None``: the BigGAN block of DDPM++ and NCSN++.
    resample: Callable[[Array], Array] | None = None
    skip_rescale: bool = DEFAULTS.model.skip_rescale  # divide the sum by sqrt 2
    init_scale: float = DEFAULTS.model.init_scale  # initial scale of the second convolution
    shortcut_init_scale: float = 1.0  # initial scale of the projection of the skip connection
    min_group_channels: int = 4  # see :class:`GroupNorm`

    @nn.compact
    def __call__(
        self, x: Images, embedding: Features | None, train: bool
    ) -> Float[Array, "batch *new_size {self.features}"]:
        """The sum of both branches."""
        h = self.activation(GroupNorm(self.min_group_channels)(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv3x3(self.features)(h)
        if embedding is not None:
            shift = nn.Dense(self.features, kernel_init=ddpm_init())(self.activation(embedding))
            h = add_everywhere(h, shift)
        h = self.activation(GroupNorm(self.min_group_channels)(h))
        h = Dropout(self.dropout)(h, train)
        h = conv3x3(self.features, self.init_scale)(h)
        if x.shape[-1] != self.features or self.resample is not None:
            x = Pointwise(self.features, self.shortcut_init_scale)(x)
        return residual_sum(x, h, self.skip_rescale)


class Combine(nn.Module):
    """A projected image and feature maps, as their sum or side by side (``"sum"`` or ``"cat"``)."""

    method: str = "sum"

    @nn.compact
    def __call__(self, image: Images, h: Float[Array, "batch *size maps"]) -> Maps:
        """Feature maps with the image mixed in."""
        projected = Pointwise(h.shape[-1])(image)
        return projected + h if self.method == "sum" else jnp.concatenate([projected, h], axis=-1)


class InputPyramid:
    """The input enters at full resolution only; others feed smaller and smaller copies of it to the way down."""

    def __init__(self, x: Images, kernel: Kernel | None, combine: str, skip_rescale: bool) -> None:
        """Start from the full image."""
        self.image, self.kernel, self.combine, self.skip_rescale = x, kernel, combine, skip_rescale

    def __call__(self, h: Maps) -> Maps:
        """The feature maps of the level just entered, with the input mixed in."""
        return h


class InputSkip(InputPyramid):
    """The halved input itself, projected and combined."""

    def __call__(self, h: Maps) -> Maps:
        """Halve once more and combine."""
        self.image = Downsample(kernel=self.kernel)(self.image)
        return Combine(self.combine)(self.image, h)


class InputResidual(InputPyramid):
    """A chain of halving convolutions of the input; every level is added to it."""

    def __call__(self, h: Maps) -> Maps:
        """Halve, project and add."""
        image = Downsample(h.shape[-1], with_conv=True, kernel=self.kernel)(self.image)
        self.image = residual_sum(image, h, self.skip_rescale)
        return self.image


class OutputPyramid:
    """The plain head: the output comes from the last feature maps alone."""

    def __init__(
        self, channels: int, head: Callable[..., Maps], kernel: Kernel | None, init_scale: float, skip_rescale: bool
    ) -> None:
        """Remember how to make a head: normalization, activation and a 3x3 convolution ``head(h, features, scale)``."""
        self.channels, self.head, self.kernel = channels, head, kernel
        self.init_scale, self.skip_rescale = init_scale, skip_rescale
        self.pyramid: Maps | None = None

    def level(self, h: Maps) -> Maps:
        """The feature maps at the end of a level on the way up."""
        return h

    def output(self, h: Maps) -> Maps:
        """The network's output."""
        return self.head(h, self.channels, self.init_scale)


class OutputSkip(OutputPyramid):
    """Every level has a head, and the output is the sum of their doubled images."""

    def level(self, h: Maps) -> Maps:
        """Add an image of this level."""
        before = self.pyramid
        image = self.head(h, self.channels, self.init_scale)
        self.pyramid = image if before is None else Upsample(kernel=self.kernel)(before) + image
        return h

    def output(self, h: Maps) -> Maps:
        """The sum."""
        assert self.pyramid is not None
        return self.pyramid


class OutputResidual(OutputPyramid):
    """A chain of doubling convolutions beside the trunk, added to every level but the lowest, where it starts."""

    def level(self, h: Maps) -> Maps:
        """Double, project and add."""
        features = h.shape[-1]
        if self.pyramid is None:
            self.pyramid = self.head(h, features, 1.0)
            return h
        doubled = Upsample(features, with_conv=True, kernel=self.kernel)(self.pyramid)
        self.pyramid = residual_sum(doubled, h, self.skip_rescale)
        return self.pyramid


INPUT_PYRAMIDS = {"none": InputPyramid, "input_skip": InputSkip, "residual": InputResidual}
OUTPUT_PYRAMIDS = {"none": OutputPyramid, "output_skip": OutputSkip, "residual": OutputResidual}
