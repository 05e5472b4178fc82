"""NCSN++ in eager PyTorch: the network of torch_ddpmpp.py with FIR filters and with pyramids at both ends.

The filters are depthwise convolutions, and the doubled images come from one transposed depthwise convolution.
"""

import math
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch_ddpmpp import DDPMpp, conv3x3, group_norm

_TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
_KERNEL = torch.outer(_TAPS, _TAPS)[None, None]


def fir_down(x: Tensor) -> Tensor:
    """Every second pixel of the filtered images."""
    channels = x.shape[1]
    return F.conv2d(x, _KERNEL.expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


def fir_up(x: Tensor) -> Tensor:
    """Zeros between the pixels, filtered with gain 4."""
    channels = x.shape[1]
    return F.conv_transpose2d(x, 4.0 * _KERNEL.expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


class NCSNpp(DDPMpp):
    """The U-Net with ``fir``, ``progressive_input="residual"`` and ``progressive="output_skip"``."""

    down, up = staticmethod(fir_down), staticmethod(fir_up)

    def __init__(self, image: tuple[int, int, int], **fields: Any) -> None:
        """Build the layers of the trunk and of both pyramids."""
        super().__init__(image, **fields)
        widths = [fields["features"] * multiplier for multiplier in fields["channel_multipliers"]]
        self.halvings = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2)
            for inputs, outputs in zip([image[2], *widths[:-2]], widths[:-1], strict=True)
        )
        del self.norm, self.last
        self.norms = nn.ModuleList(group_norm(width) for width in reversed(widths))
        self.heads = nn.ModuleList(conv3x3(width, image[2]) for width in reversed(widths))

    def enter(self, image: Tensor, h: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Filter, halve, project and add the image."""
        channels = image.shape[1]
        filtered = F.conv2d(image, _KERNEL.expand(channels, 1, 4, 4), padding=2, groups=channels)
        image = (self.halvings[level](filtered) + h) * math.sqrt(0.5)
        return image, image

    def leave(self, before: Tensor | None, h: Tensor, level: int) -> Tensor | None:
        """Add an image of this level."""
        image = self.heads[level](F.silu(self.norms[level](h)))
        return image if before is None else fir_up(before) + image

    def finish(self, h: Tensor, output: Tensor | None) -> Tensor:
        """The sum of the images."""
        assert output is not None
        return output

    def top_level(self, kind: str, index: int) -> str:
        """The name of a layer that belongs to no block."""
        if kind == "Downsample":
            return f"halvings.{index}"
        if kind == "GroupNorm":
            return f"norms.{index}"
        return f"heads.{index - 1}" if index else "first"
