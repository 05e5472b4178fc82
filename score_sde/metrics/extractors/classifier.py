"""Small convolutional classifiers of the digits and of MNIST, whose weights come with the package.

They were trained by ``experiments/metrics/train_classifier.py``. Their features suit these data sets, which ImageNet
does not contain; distances between them compare runs of this program, not published results.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Num

from score_sde.errors import UserError, unknown
from score_sde.metrics.extractors.base import ImageExtractor, check_images
from score_sde.metrics.extractors.layers import Shapes, convolve, dense, file_sha256, read_tensors
from score_sde.typing import Params

WEIGHTS = Path(__file__).parent / "weights"


class Architecture(NamedTuple):
    """A classifier: 3x3 convolutions, means over blocks of pixels, a dense layer of features, and one of logits."""

    shape: tuple[int, int, int]  # shape of an image
    num_levels: int  # the number of its gray levels
    convolutions: tuple[tuple[int, int], ...]  # channels and stride of each convolution
    block: int  # side of the blocks of pixels over which the last convolution's output is averaged
    num_features: int
    num_classes: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "digits": Architecture((8, 8, 1), 17, ((32, 1), (32, 2), (64, 2)), 1, 64, 10),
    "mnist": Architecture((28, 28, 1), 256, ((16, 1), (32, 2), (32, 2), (64, 2)), 2, 128, 10),
}


def parameter_shapes(architecture: Architecture) -> Shapes:
    """Name and shape of every parameter; kernels are (height, width, in, out), dense ones (in, out).

    >>> parameter_shapes(ARCHITECTURES["digits"])["features.kernel"]
    (256, 64)
    """
    shapes: Shapes = {}
    height, width, channels = architecture.shape
    for index, (out, stride) in enumerate(architecture.convolutions):
        shapes[f"conv{index}.kernel"] = (3, 3, channels, out)
        shapes[f"conv{index}.bias"] = (out,)
        height, width, channels = -(-height // stride), -(-width // stride), out
    pooled = height // architecture.block * (width // architecture.block) * channels
    for name, rows, columns in (
        ("features", pooled, architecture.num_features),
        ("logits", architecture.num_features, architecture.num_classes),
    ):
        shapes[f"{name}.kernel"] = (rows, columns)
        shapes[f"{name}.bias"] = (columns,)
    return shapes


def classify(
    architecture: Architecture, params: Params, images: Num[Array, "batch height width channels"]
) -> tuple[Float[Array, "batch features"], Float[Array, "batch classes"]]:
    """The features, after their activation, and the logits of images given as levels."""
    x = images.astype("float32") * (2.0 / (architecture.num_levels - 1)) - 1.0
    for index, (_, stride) in enumerate(architecture.convolutions):
        x = jax.nn.silu(convolve(x, params[f"conv{index}.kernel"], params[f"conv{index}.bias"], stride=stride))
    batch, height, width, channels = x.shape
    block = architecture.block
    x = x.reshape(batch, height // block, block, width // block, block, channels).mean((2, 4)).reshape(batch, -1)
    features = jax.nn.silu(dense(x, params["features.kernel"]) + params["features.bias"].reshape(1, -1))
    return features, dense(features, params["logits.kernel"]) + params["logits.bias"].reshape(1, -1)


def make_classifier(
    data: str,
    *,
    shape: tuple[int, ...] | None = None,
    num_levels: int | None = None,
    weights: Path | None = None,
    batch_size: int = 256,
) -> ImageExtractor:
    """The classifier of a data set as an extractor, named ``classifier-digits`` or ``classifier-mnist``.

    The shape and number of gray levels of the images, if given, must be those of the data set ``digits`` or ``mnist``.
    ``weights`` is a file of other weights for the same network.

    Raises:
        UserError: For another data set, images unlike the data set's, or weights of another network.

    >>> import numpy as np
    >>> extractor = make_classifier("digits")
    >>> found = extractor(np.zeros((3, 8, 8, 1), np.uint8))
    >>> extractor.name, found.features.shape, found.logits.shape
    ('classifier-digits', (3, 64), (3, 10))
    """
    if data not in ARCHITECTURES:
        raise unknown("classifier", data, ARCHITECTURES)
    architecture, name = ARCHITECTURES[data], f"classifier-{data}"
    if shape is not None:
        levels = check_images(name, shape, num_levels)
        if (shape, levels) != (architecture.shape, architecture.num_levels):
            raise UserError(
                f"Extractor {name} cannot take data of shape {shape} with {levels} levels; expected "
                f"{architecture.shape} with {architecture.num_levels} levels, as in {data}. Choose another extractor, "
                "such as 'pixels'."
            )
    path = weights or WEIGHTS / f"{data}.safetensors"
    hint = "Take a file that experiments/metrics/train_classifier.py wrote for this data set."
    params = read_tensors(path, parameter_shapes(architecture), network=name, hint=hint)
    return ImageExtractor(
        name=name,
        sha256=file_sha256(path),
        num_features=architecture.num_features,
        num_classes=architecture.num_classes,
        forward=lambda params, images: classify(architecture, params, images),
        params=params,
        shape=architecture.shape,
        num_levels=architecture.num_levels,
        batch_size=batch_size,
    )
