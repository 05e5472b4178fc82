"""The noise-conditional score networks NCSN (Song & Ermon 2019) and NCSNv2 (Song & Ermon 2020).

    x --> conv --> stage 1 --> stage 2 --> ... --> stage n
                      |           |                   |
    output <-- norm <-- refine n <-- ... refine 2 <-- refine 1

Each stage is two residual blocks; late stages dilate instead of shrinking. NCSN learns a normalization per noise level.
NCSNv2 does not see the noise level at all: its output is divided by sigma, which is here left to the parameterization.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.errors import unknown
from score_sde.fields import DEFAULTS
from score_sde.models.layers import ACTIVATIONS, Images
from score_sde.models.normalization import NORMALIZATIONS, ConditionalInstanceNorm2dPlus, InstanceNorm2dPlus
from score_sde.models.refinenet import (
    ConditionalResidualBlock,
    CondRefineBlock,
    Maps,
    Normalize,
    RefineBlock,
    ResidualBlock,
    conv3x3,
    identity,
)
from score_sde.typing import Times


@dataclass(frozen=True)
class Depth:
    """The plan of a network, in multiples of ``features``."""

    # Width and dilation of each stage of the backbone; all but the first widen the receptive field.
    stages: tuple[tuple[int, int], ...]
    refinements: tuple[int, ...]  # width of each refinement, from the coarsest to the finest


DEPTHS: dict[int, Depth] = {
    64: Depth(((1, 1), (2, 1), (2, 2), (2, 4)), (2, 2, 2, 1)),
    128: Depth(((1, 1), (2, 1), (2, 1), (4, 2), (4, 4)), (4, 2, 2, 1, 1)),
    256: Depth(((1, 1), (2, 1), (2, 1), (2, 1), (4, 2), (4, 4)), (4, 2, 2, 2, 1, 1)),
}
# The PyTorch releases narrow one refinement earlier than the JAX original at 64 pixels; the other depths agree.
PYTORCH_64 = Depth(DEPTHS[64].stages, (2, 2, 1, 1))


class NCSNv2(nn.Module):
    """NCSNv2, blind to the noise level, with its fields of ``config.model`` (``docs/fields.md``)."""

    features: int = DEFAULTS.model.features
    # 64, 128 or 256: the plan made for images up to this size. Sizes must be divisible by 2, 4 or 8.
    resolution: int = 64
    activation: str = "elu"
    normalization: str = DEFAULTS.model.normalization
    interpolation: str = DEFAULTS.model.interpolation
    rescale_input: bool = False  # map data from [0, 1] to [-1, 1] first
    # Compute as the PyTorch releases do, for their checkpoints: corners aligned in the bilinear interpolation, unbiased
    # variance in InstanceNorm++, and at 64 pixels a narrower third refinement.
    pytorch: bool = DEFAULTS.model.pytorch

    residual_block: ClassVar[type[ResidualBlock]] = ResidualBlock
    refine_block: ClassVar[type[RefineBlock]] = RefineBlock

    @nn.compact
    def __call__(self, x: Images, condition: Times, *, train: bool = False) -> Images:
        """The network output, of the shape of ``x``.

        Raises:
            UserError: If the resolution, normalization or interpolation is unknown.
        """
        del train  # nothing in it is random
        normalize, refine_normalize = self._norms(condition)
        activation = ACTIVATIONS[self.activation]
        h = conv3x3(2.0 * x - 1.0 if self.rescale_input else x, self.features)
        h = self._refine(self._backbone(h, normalize), refine_normalize)
        return conv3x3(activation(normalize(h)), x.shape[-1], exact=True)

    def _norms(self, condition: Times) -> tuple[Normalize, Normalize]:
        """The normalizations of the backbone and of the refinements."""
        del condition
        if self.normalization not in NORMALIZATIONS:
            raise unknown("normalization", self.normalization, NORMALIZATIONS)
        norm = NORMALIZATIONS[self.normalization]
        if norm is InstanceNorm2dPlus:
            norm = functools.partial(InstanceNorm2dPlus, unbiased=self.pytorch)
        return lambda x: norm()(x), identity

    def _depth(self) -> Depth:
        if self.resolution not in DEPTHS:
            raise unknown("resolution", str(self.resolution), map(str, DEPTHS))
        return PYTORCH_64 if self.pytorch and self.resolution == 64 else DEPTHS[self.resolution]

    def _backbone(self, h: Maps, normalize: Normalize) -> list[Maps]:
        """The outputs of the stages, the finest first."""
        activation, outputs = ACTIVATIONS[self.activation], []
        for stage, (multiplier, dilation) in enumerate(self._depth().stages):
            for down in (stage > 0, False):
                h = self.residual_block(self.features * multiplier, activation, down, dilation)(h, normalize)
            outputs.append(h)
        return outputs

    def _refine(self, maps: list[Maps], normalize: Normalize) -> Maps:
        """Refine the outputs of the stages from the coarsest to the finest."""
        activation, widths = ACTIVATIONS[self.activation], self._depth().refinements
        aligned = self.pytorch and self.interpolation == "bilinear"
        interpolation = "bilinear_aligned" if aligned else self.interpolation
        refined = []
        for index, (h, multiplier) in enumerate(zip(reversed(maps), widths, strict=True)):
            end = index == len(widths) - 1
            block = self.refine_block(self.features * multiplier, activation, interpolation, end)
            refined = [block([h, *refined], normalize)]
        return refined[0]


class NCSN(NCSNv2):
    """NCSN, with InstanceNorm++ conditional on the index of the noise level throughout, at the plan for 64 pixels."""

    # Number of noise levels. The condition carries the index of the level and is rounded; an index out of range gives
    # NaN.
    num_classes: int = 10

    residual_block: ClassVar[type[ResidualBlock]] = ConditionalResidualBlock
    refine_block: ClassVar[type[RefineBlock]] = CondRefineBlock

    def _norms(self, condition: Times) -> tuple[Normalize, Normalize]:
        if self.normalization != "InstanceNorm++":
            raise unknown("conditional normalization", self.normalization, ["InstanceNorm++"])
        labels = jnp.where(jnp.isfinite(condition), jnp.round(condition), -1.0).astype(jnp.int32)
        norm = functools.partial(ConditionalInstanceNorm2dPlus, self.num_classes, unbiased=self.pytorch)

        def normalize(x: Array) -> Array:
            return norm()(x, labels)

        return normalize, normalize
