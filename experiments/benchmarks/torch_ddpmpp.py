"""The network of :mod:`score_sde.models.ncsnpp` and its training step, in eager PyTorch: the baseline of train_step.py.

It is what a competent user would write: channels-last convolutions, the library's own GroupNorm and attention, fused
Adam, and multi-tensor operations for clipping and for the moving average. Only the parts that DDPM++ uses are here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

# How the names of the Flax parameters translate, by the module that holds them.
_RESIDUAL = {
    "GroupNorm_0": "norm_in",
    "Conv_0": "conv_in",
    "Dense_0": "shift",
    "GroupNorm_1": "norm_out",
    "Conv_1": "conv_out",
    "Pointwise_0": "skip",
}
_ATTENTION = {
    "GroupNorm_0": "norm",
    "Pointwise_0": "query",
    "Pointwise_1": "key",
    "Pointwise_2": "value",
    "Pointwise_3": "out",
}
_TIME = {"Dense_0": "time.0", "Dense_1": "time.2"}


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization with at most 32 groups of at least 4 channels."""
    groups = max(n for n in range(1, max(min(channels // 4, 32), 1) + 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResidualBlock(nn.Module):
    """The BigGAN residual block, which may resample both of its branches."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, resample: Callable[[Tensor], Tensor] | None
    ) -> None:
        """Build the layers for the given numbers of channels."""
        super().__init__()
        self.dropout, self.resample = dropout, resample
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(outputs)
        self.conv_in, self.conv_out = conv3x3(inputs, outputs), conv3x3(outputs, outputs)
        self.shift = nn.Linear(embedding, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or resample is not None else nn.Identity()

    def _resampled(self, x: Tensor) -> Tensor:
        return x if self.resample is None else self.resample(x)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Two normalized convolutions beside the skip connection; ``embedding`` has passed its activation."""
        h = self._resampled(F.silu(self.norm_in(x)))
        h = self.conv_in(h) + self.shift(embedding)[:, :, None, None]
        h = F.dropout(F.silu(self.norm_out(h)), self.dropout, self.training)
        return (self.skip(self._resampled(x)) + self.conv_out(h)) * math.sqrt(0.5)


class AttentionBlock(nn.Module):
    """Single-head self-attention over pixels."""

    def __init__(self, channels: int) -> None:
        """Build the layers for the given number of channels."""
        super().__init__()
        self.norm = group_norm(channels)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, project, add."""
        batch, channels, height, width = x.shape
        h = self.norm(x)
        # A channels-last map is already (batch, pixels, channels) in memory, so these are views.
        query, key, value = (
            layer(h).permute(0, 2, 3, 1).reshape(batch, 1, -1, channels) for layer in (self.query, self.key, self.value)
        )
        h = F.scaled_dot_product_attention(query, key, value)
        h = h.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return (x + self.out(h)) * math.sqrt(0.5)


def halved(x: Tensor) -> Tensor:
    """Means over two by two pixels."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class DDPMpp(nn.Module):
    """The DDPM++ U-Net; the fields are those of :class:`score_sde.models.ncsnpp.NCSNpp`."""

    down, up = staticmethod(halved), staticmethod(doubled)

    def __init__(
        self,
        image: tuple[int, int, int],
        *,
        features: int,
        channel_multipliers: tuple[int, ...],
        num_blocks: int,
        attention_resolutions: tuple[int, ...],
        dropout: float,
    ) -> None:
        """Build the layers for images of the given height, width and channels."""
        super().__init__()
        self.features, self.dropout = features, dropout
        self.residual, self.attention = nn.ModuleList(), nn.ModuleList()
        self.time = nn.Sequential(nn.Linear(features, 4 * features), nn.SiLU(), nn.Linear(4 * features, 4 * features))
        self.first = conv3x3(image[2], features)
        # What forward does, in order: "block", "attend", "push" or "pop" (a skip), "enter" or "leave" (a level, for the
        # pyramids), with the index of the module.
        self.plan: list[tuple[str, int]] = [("push", 0)]
        self._build(image[0], channel_multipliers, num_blocks, attention_resolutions)
        channels = features * channel_multipliers[0]
        self.norm, self.last = group_norm(channels), conv3x3(channels, image[2])

    def _block(self, inputs: int, outputs: int, resample: Callable[[Tensor], Tensor] | None = None) -> int:
        self.plan.append(("block", len(self.residual)))
        self.residual.append(ResidualBlock(inputs, outputs, 4 * self.features, self.dropout, resample))
        return outputs

    def _attend(self, channels: int) -> None:
        self.plan.append(("attend", len(self.attention)))
        self.attention.append(AttentionBlock(channels))

    def _build(self, height: int, multipliers: tuple[int, ...], num_blocks: int, attention: tuple[int, ...]) -> None:
        channels, skips = self.features, [self.features]
        for level, multiplier in enumerate(multipliers):
            for _ in range(num_blocks):
                channels = self._block(channels, self.features * multiplier)
                if height in attention:
                    self._attend(channels)
                skips.append(channels)
                self.plan.append(("push", 0))
            if level != len(multipliers) - 1:
                channels, height = self._block(channels, channels, self.down), height // 2
                self.plan.append(("enter", level))
                skips.append(channels)
                self.plan.append(("push", 0))
        self._block(channels, channels)
        self._attend(channels)
        self._block(channels, channels)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(num_blocks + 1):
                self.plan.append(("pop", 0))
                channels = self._block(channels + skips.pop(), self.features * multiplier)
            if height in attention:
                self._attend(channels)
            self.plan.append(("leave", len(multipliers) - 1 - level))
            if level != 0:
                channels, height = self._block(channels, channels, self.up), height * 2

    def enter(self, image: Tensor, h: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The smaller input of the level just entered, and the feature maps with it; here there is none."""
        return image, h

    def leave(self, before: Tensor | None, h: Tensor, level: int) -> Tensor | None:
        """The output so far, with that of the level just completed; here there is none before the end."""
        return before

    def finish(self, h: Tensor, output: Tensor | None) -> Tensor:
        """The network's output."""
        return self.last(F.silu(self.norm(h)))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The network output for images ``x`` (channels second) at noise condition ``condition``."""
        half = self.features // 2
        frequencies = torch.exp(-math.log(10_000.0) / max(half - 1, 1) * torch.arange(half))
        angles = condition[:, None] * frequencies[None, :]
        # Each block applies its activation to the embedding; once is enough where XLA would find that out by itself.
        embedding = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)))
        h = self.first(x)
        skips: list[Tensor] = []
        image, output = x, None
        for action, index in self.plan:
            if action == "push":
                skips.append(h)
            elif action == "pop":
                h = torch.cat([h, skips.pop()], dim=1)
            elif action == "attend":
                h = self.attention[index](h)
            elif action == "enter":
                image, h = self.enter(image, h, index)
            elif action == "leave":
                output = self.leave(output, h, index)
            else:
                h = self.residual[index](h, embedding)
        return self.finish(h, output)

    def load_flax(self, params: Mapping[str, Any]) -> None:
        """Copy the parameters of the Flax network of the same configuration."""
        state = {self.name_of(path): _torch_layout(path[-1], leaf) for path, leaf in _flatten(params)}
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        state = {name: value.reshape(shapes[name]) for name, value in state.items()}  # 1x1 kernels gain two axes
        self.load_state_dict(state, strict=True)

    def name_of(self, path: tuple[str, ...]) -> str:
        """The name of a parameter, from its path in Flax."""
        kind, _, index = path[0].rpartition("_")
        leaf = "bias" if path[-1] == "bias" else "weight"
        if kind == "ResidualBlock":
            return f"residual.{index}.{_RESIDUAL[path[1]]}.{leaf}"
        if kind == "AttentionBlock":
            return f"attention.{index}.{_ATTENTION[path[1]]}.{leaf}"
        return f"{_TIME[path[1]] if kind == 'TimeEmbedding' else self.top_level(kind, int(index))}.{leaf}"

    def top_level(self, kind: str, index: int) -> str:
        """The name of a layer that belongs to no block."""
        return {"Conv": ("first", "last"), "GroupNorm": ("norm",)}[kind][index]


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], np.ndarray]]:
    leaves: list[tuple[tuple[str, ...], np.ndarray]] = []
    for name, value in tree.items():
        is_leaf = not isinstance(value, Mapping)
        leaves += [((*path, name), np.asarray(value))] if is_leaf else _flatten(value, (*path, name))
    return leaves


def _torch_layout(leaf: str, value: np.ndarray) -> Tensor:
    """Inputs and outputs change places, and the axes of the image go last."""
    if leaf == "kernel":
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return torch.tensor(value)


class Trainer:
    """The training step: VP denoising score matching, Adam with warm-up, global-norm clipping, moving average."""

    def __init__(
        self, model: DDPMpp, layout: torch.memory_format, *, lr: float, warmup: int, ema_rate: float, num_levels: int
    ) -> None:
        """Set up optimizer and moving average of ``model``, whose memory layout the images get too."""
        self.layout = layout
        self.model = model.train()
        self.params: list[Tensor] = list(model.parameters())
        self.ema = [param.detach().clone() for param in self.params]
        self.adam = torch.optim.Adam(self.params, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)
        self.lr, self.warmup, self.ema_rate, self.num_levels = lr, warmup, ema_rate, num_levels
        self.count = 0

    def loss(self, levels: Tensor) -> Tensor:
        """Mean squared error of the predicted noise at low-discrepancy times, for images of gray levels (NHWC)."""
        levels = levels.permute(0, 3, 1, 2)
        noisy = (levels + torch.rand(levels.shape)).contiguous(memory_format=self.layout)
        x = 2.0 * noisy / self.num_levels - 1.0
        t = 1e-5 + (1.0 - 1e-5) * ((torch.rand(()) + torch.arange(len(x)) / len(x)) % 1.0)
        integral = t * (0.1 + 0.5 * t * 19.9)
        mean_coeff, std = torch.exp(-0.5 * integral), torch.sqrt(-torch.expm1(-integral))
        noise = torch.randn_like(x)
        xt = mean_coeff[:, None, None, None] * x + std[:, None, None, None] * noise
        return F.mse_loss(self.model(xt, 999.0 * t), noise)

    def step(self, levels: np.ndarray) -> Tensor:
        """One step; returns the loss."""
        for group in self.adam.param_groups:
            group["lr"] = self.lr * min(1.0, self.count / self.warmup)
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(torch.from_numpy(levels))
        loss.backward()
        nn.utils.clip_grad_norm_(self.params, 1.0, foreach=True)
        self.adam.step()
        torch._foreach_lerp_(self.ema, self.params, 1.0 - self.ema_rate)  # pyright: ignore
        self.count += 1
        return loss.detach()
