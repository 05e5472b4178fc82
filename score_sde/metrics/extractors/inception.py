"""The InceptionV3 in the definitions of Fréchet inception distance and inception score.

It is the network of 2015 (Szegedy et al. 2016), as published by TensorFlow and converted to PyTorch by two projects,
whose layer names it keeps. It differs from the InceptionV3 of torchvision: means over windows exclude the padding, the
last block has a maximum instead of a mean, and there are 1008 classes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from score_sde.errors import UserError, unknown
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
    max_pool,
    mean_pool,
    read_tensors,
    to_rgb,
)
from score_sde.metrics.extractors.resize import resize_half_pixel, resize_tensorflow1
from score_sde.typing import Params

NAME = "inception-2015"
SIZE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008
EPSILON = 1e-3  # of the batch normalizations
FILES = (
    "Download pt_inception-2015-12-05-6726825d.pth (releases of mseitzer/pytorch-fid on GitHub) or "
    "weights-inception-2015-12-05-6726825d.pth (releases of toshas/torch-fidelity), and give its path."
)


class _Step(NamedTuple):
    """A convolution of a branch."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class _Branches(NamedTuple):
    """The convolutions of one block: without padding if they halve the image, else of the same size."""

    conv: Conv
    block: str

    def __call__(self, x: Images, *steps: _Step) -> Images:
        for name, channels, kernel, stride in steps:
            padding = "SAME" if stride == 1 else "VALID"
            x = jax.nn.relu(self.conv(f"{self.block}.{name}", x, channels, kernel, stride=stride, padding=padding))
        return x


def _join(*branches: Images) -> Images:
    return jnp.concatenate(branches, axis=-1)


def _halved(x: Images) -> Images:
    return max_pool(x, stride=2, padding="VALID")


_ROW, _COLUMN, _SQUARE = (1, 7), (7, 1), (3, 3)


def _block_a(conv: Conv, block: str, x: Images, pooled: int) -> Images:
    branch = _Branches(conv, block)
    return _join(
        branch(x, _Step("branch1x1", 64)),
        branch(x, _Step("branch5x5_1", 48), _Step("branch5x5_2", 64, (5, 5))),
        branch(
            x,
            _Step("branch3x3dbl_1", 64),
            _Step("branch3x3dbl_2", 96, _SQUARE),
            _Step("branch3x3dbl_3", 96, _SQUARE),
        ),
        branch(mean_pool(x), _Step("branch_pool", pooled)),
    )


def _block_b(conv: Conv, block: str, x: Images) -> Images:
    branch = _Branches(conv, block)
    return _join(
        branch(x, _Step("branch3x3", 384, _SQUARE, 2)),
        branch(
            x,
            _Step("branch3x3dbl_1", 64),
            _Step("branch3x3dbl_2", 96, _SQUARE),
            _Step("branch3x3dbl_3", 96, _SQUARE, 2),
        ),
        _halved(x),
    )


def _block_c(conv: Conv, block: str, x: Images, narrow: int) -> Images:
    branch = _Branches(conv, block)
    return _join(
        branch(x, _Step("branch1x1", 192)),
        branch(
            x,
            _Step("branch7x7_1", narrow),
            _Step("branch7x7_2", narrow, _ROW),
            _Step("branch7x7_3", 192, _COLUMN),
        ),
        branch(
            x,
            _Step("branch7x7dbl_1", narrow),
            _Step("branch7x7dbl_2", narrow, _COLUMN),
            _Step("branch7x7dbl_3", narrow, _ROW),
            _Step("branch7x7dbl_4", narrow, _COLUMN),
            _Step("branch7x7dbl_5", 192, _ROW),
        ),
        branch(mean_pool(x), _Step("branch_pool", 192)),
    )


def _block_d(conv: Conv, block: str, x: Images) -> Images:
    branch = _Branches(conv, block)
    return _join(
        branch(x, _Step("branch3x3_1", 192), _Step("branch3x3_2", 320, _SQUARE, 2)),
        branch(
            x,
            _Step("branch7x7x3_1", 192),
            _Step("branch7x7x3_2", 192, _ROW),
            _Step("branch7x7x3_3", 192, _COLUMN),
            _Step("branch7x7x3_4", 192, _SQUARE, 2),
        ),
        _halved(x),
    )


def _block_e(conv: Conv, block: str, x: Images, pooled: Images) -> Images:
    branch = _Branches(conv, block)
    single = branch(x, _Step("branch3x3_1", 384))
    double = branch(x, _Step("branch3x3dbl_1", 448), _Step("branch3x3dbl_2", 384, _SQUARE))
    return _join(
        branch(x, _Step("branch1x1", 320)),
        branch(single, _Step("branch3x3_2a", 384, (1, 3))),
        branch(single, _Step("branch3x3_2b", 384, (3, 1))),
        branch(double, _Step("branch3x3dbl_3a", 384, (1, 3))),
        branch(double, _Step("branch3x3dbl_3b", 384, (3, 1))),
        branch(pooled, _Step("branch_pool", 192)),
    )


def _stem(conv: Conv, x: Images) -> Images:
    def unit(name: str, x: Images, channels: int, size: int, *, stride: int = 1, padding: str = "VALID") -> Images:
        return jax.nn.relu(conv(name, x, channels, (size, size), stride=stride, padding=padding))

    x = unit("Conv2d_1a_3x3", x, 32, 3, stride=2)
    x = unit("Conv2d_2a_3x3", x, 32, 3)
    x = unit("Conv2d_2b_3x3", x, 64, 3, padding="SAME")
    x = unit("Conv2d_3b_1x1", _halved(x), 80, 1)
    return _halved(unit("Conv2d_4a_3x3", x, 192, 3))


def network(conv: Conv, x: Images) -> Float[Array, "batch features"]:
    """The features of images in [-1, 1], before the dense layer: means over the output of the last block."""
    x = _stem(conv, x)
    for block, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_a(conv, block, x, pooled)
    x = _block_b(conv, "Mixed_6a", x)
    for block, narrow in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _block_c(conv, block, x, narrow)
    x = _block_d(conv, "Mixed_7a", x)
    x = _block_e(conv, "Mixed_7b", x, mean_pool(x))
    x = _block_e(conv, "Mixed_7c", x, max_pool(x, stride=1, padding="SAME"))
    return x.mean((1, 2))


def _tensors(name: str) -> Tensors:
    return Tensors(f"{name}.conv.weight", f"{name}.bn")


def expected_tensors() -> Shapes:
    """Names and shapes of all tensors in either converted file."""
    shapes = declared_tensors(network, (SIZE, SIZE, 3), _tensors)
    return {**shapes, "fc.weight": (NUM_CLASSES, NUM_FEATURES), "fc.bias": (NUM_CLASSES,)}


def load_params(path: Path) -> Params:
    """The parameters from a file: normalizations folded into the convolutions, the dense layer without its bias.

    Raises:
        UserError: If the file is missing or holds something else.
    """
    if not path.exists():
        raise UserError(f"There is no file {path} of weights for extractor {NAME}. {FILES}")
    expected = expected_tensors()
    tensors = read_tensors(path, expected, network=NAME, hint=FILES)
    names = [name.removesuffix(".conv.weight") for name in expected if name.endswith(".conv.weight")]
    convolutions = {name: fold(tensors, _tensors(name), epsilon=EPSILON) for name in names}
    return {**convolutions, "fc": np.asarray(tensors["fc.weight"], np.float32).T}


def _as_tensorflow(x: Images) -> Images:
    return (resize_tensorflow1(x, (SIZE, SIZE)) - 128.0) / 128.0


def _as_pytorch_fid(x: Images) -> Images:
    return resize_half_pixel(x, (SIZE, SIZE), antialias=False) * (2.0 / 255.0) - 1.0


# From levels to the input of the network, and its suffix in the name of the extractor.
RESIZES: Mapping[str, tuple[str, Callable[[Images], Images]]] = {
    "tensorflow": ("", _as_tensorflow),
    "pytorch": ("-pytorch-resize", _as_pytorch_fid),
}


def make_inception(
    weights: Path | None,
    *,
    shape: tuple[int, ...],
    num_levels: int | None = 256,
    resize: str = "tensorflow",
    batch_size: int = 32,
) -> ImageExtractor:
    """The extractor of FID: 2048 features, and the logits of 1008 classes.

    The logits are without the bias of the dense layer, as in the code of the inception score (Salimans et al. 2016) and
    in torch-fidelity (``logits_unbiased``).

    ================  ================================================  ===================================
    ``resize``        images come to 299x299 and [-1, 1]                name
    ================  ================================================  ===================================
    ``tensorflow``    as in the original and torch-fidelity,            ``inception-2015``
                      :func:`.resize_tensorflow1`, ``(x - 128) / 128``
    ``pytorch``       as in pytorch-fid, :func:`.resize_half_pixel`,    ``inception-2015-pytorch-resize``
                      ``2 x / 255 - 1``
    ================  ================================================  ===================================

    Grey images become RGB with equal channels, and ``-grey`` is appended to the name.

    Args:
        weights: The file that pytorch-fid or torch-fidelity downloads, or the same tensors as safetensors.
        shape: Shape of an image.
        num_levels: The number of its grey levels, which must be 256.
        resize: As above.
        batch_size: The number of images processed at once.

    Raises:
        UserError: If the weights are missing or from another network, or images are not grey or RGB of 8 bits.

    Example:
        >>> make_inception(None, shape=(32, 32, 3))
        Traceback (most recent call last):
        ...
        score_sde.errors.UserError: Extractor inception-2015 needs a file of weights, which was not given. ...
    """
    if resize not in RESIZES:
        raise unknown("resize", resize, RESIZES)
    suffix, prepare = RESIZES[resize]
    name = f"{NAME}{suffix}{'-grey' if shape[-1:] == (1,) else ''}"
    check_colours(name, shape, num_levels)
    if weights is None:
        raise UserError(f"Extractor {NAME} needs a file of weights, which was not given. {FILES}")

    def forward(params: Params, images: Num[Array, "batch height width channels"]) -> tuple[Array, Array]:
        features = network(Folded(params), prepare(to_rgb(images.astype("float32"))))
        return features, dense(features, params["fc"])

    return ImageExtractor(
        name=name,
        params=load_params(weights),
        sha256=file_sha256(weights),
        num_features=NUM_FEATURES,
        num_classes=NUM_CLASSES,
        forward=forward,
        shape=shape,
        num_levels=256,
        batch_size=batch_size,
    )
