"""The InceptionV3 in the definitions of Fréchet inception distance and inception score.

It is the network of 2015 (Szegedy et al. 2016), as published by TensorFlow and converted to PyTorch by two projects,
whose layer names it keeps. It differs from the InceptionV3 of torchvision: means over windows exclude the padding, the
last block has a maximum instead of a mean, and there are 1008 classes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.errors import unknown
from score_sde.metrics.extractors.base import ImageExtractor
from score_sde.metrics.extractors.layers import (
    Conv,
    Images,
    Layer,
    Tensors,
    max_pool,
    mean_pool,
    resize_half_pixel,
    resize_tensorflow1,
)
from score_sde.metrics.extractors.pretrained import Pretrained

NAME = "inception-2015"
SIZE = 299
FILES = (
    "Download pt_inception-2015-12-05-6726825d.pth (releases of mseitzer/pytorch-fid on GitHub) or "
    "weights-inception-2015-12-05-6726825d.pth (releases of toshas/torch-fidelity), and give its path."
)

# A step is a layer with its activation, a pooling, or branches, each a list of steps, whose outputs are joined.
_Step: TypeAlias = Layer | Callable[[Images], Images] | list[Any]


def _halved(x: Images) -> Images:
    return max_pool(x, stride=2, padding="VALID")


def _largest(x: Images) -> Images:
    return max_pool(x, stride=1, padding="SAME")


_SQUARE, _ROW, _COLUMN = (3, 3), (1, 7), (7, 1)
_HALVING: Mapping[str, Any] = {"kernel": _SQUARE, "stride": 2, "padding": "VALID"}
_STEM: list[_Step] = [
    Layer("Conv2d_1a_3x3", 32, **_HALVING),
    Layer("Conv2d_2a_3x3", 32, _SQUARE, padding="VALID"),
    Layer("Conv2d_2b_3x3", 64, _SQUARE),
    _halved,
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, _SQUARE, padding="VALID"),
    _halved,
]


def _block_a(pooled: int) -> list[_Step]:
    return [
        [Layer("branch1x1", 64)],
        [Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))],
        [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, _SQUARE), Layer("branch3x3dbl_3", 96, _SQUARE)],
        [mean_pool, Layer("branch_pool", pooled)],
    ]


_BLOCK_B: list[_Step] = [
    [Layer("branch3x3", 384, **_HALVING)],
    [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, _SQUARE), Layer("branch3x3dbl_3", 96, **_HALVING)],
    [_halved],
]


def _block_c(narrow: int) -> list[_Step]:
    return [
        [Layer("branch1x1", 192)],
        [Layer("branch7x7_1", narrow), Layer("branch7x7_2", narrow, _ROW), Layer("branch7x7_3", 192, _COLUMN)],
        [
            Layer("branch7x7dbl_1", narrow),
            Layer("branch7x7dbl_2", narrow, _COLUMN),
            Layer("branch7x7dbl_3", narrow, _ROW),
            Layer("branch7x7dbl_4", narrow, _COLUMN),
            Layer("branch7x7dbl_5", 192, _ROW),
        ],
        [mean_pool, Layer("branch_pool", 192)],
    ]


_BLOCK_D: list[_Step] = [
    [Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, **_HALVING)],
    [
        Layer("branch7x7x3_1", 192),
        Layer("branch7x7x3_2", 192, _ROW),
        Layer("branch7x7x3_3", 192, _COLUMN),
        Layer("branch7x7x3_4", 192, **_HALVING),
    ],
    [_halved],
]


def _block_e(pool: Callable[[Images], Images]) -> list[_Step]:
    def split(name: str) -> list[_Step]:
        return [[Layer(f"{name}a", 384, (1, 3))], [Layer(f"{name}b", 384, (3, 1))]]

    return [
        [Layer("branch1x1", 320)],
        [Layer("branch3x3_1", 384), split("branch3x3_2")],
        [Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, _SQUARE), split("branch3x3dbl_3")],
        [pool, Layer("branch_pool", 192)],
    ]


_BLOCKS: Mapping[str, list[_Step]] = {
    **{name: _block_a(pooled) for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64))},
    "Mixed_6a": _BLOCK_B,
    **{
        name: _block_c(narrow)
        for name, narrow in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192))
    },
    "Mixed_7a": _BLOCK_D,
    "Mixed_7b": _block_e(mean_pool),
    "Mixed_7c": _block_e(_largest),
}


def _follow(conv: Conv, x: Images, steps: list[_Step], prefix: str = "") -> Images:
    for step in steps:
        if isinstance(step, Layer):
            x = jax.nn.relu(conv(step._replace(name=prefix + step.name), x))
        elif isinstance(step, list):
            x = jnp.concatenate([_follow(conv, x, branch, prefix) for branch in step], axis=-1)
        else:
            x = step(x)
    return x


def network(conv: Conv, x: Images) -> Float[Array, "batch features"]:
    """The features of images in [-1, 1], before the dense layer: means over the output of the last block."""
    x = _follow(conv, x, _STEM)
    for block, branches in _BLOCKS.items():
        x = _follow(conv, x, [branches], f"{block}.")
    return x.mean((1, 2))


def _tensors(name: str) -> Tensors:
    return Tensors(f"{name}.conv.weight", f"{name}.bn")


INCEPTION = Pretrained(
    name=NAME,
    network=network,
    size=SIZE,
    num_features=2048,
    num_classes=1008,
    tensors=_tensors,
    head="fc",
    biased=False,
    hint=FILES,
    missing="needs a file of weights, which was not given",
)


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

    Gray images become RGB with equal channels, and ``-grey`` is appended to the name.

    ``weights`` is the file that pytorch-fid or torch-fidelity downloads, or the same tensors as safetensors.

    Raises:
        UserError: If the weights are missing or from another network, or images are not gray or RGB of 8 bits.

    >>> make_inception(None, shape=(32, 32, 3))
    Traceback (most recent call last):
    ...
    score_sde.errors.UserError: Extractor inception-2015 needs a file of weights, which was not given. ...
    """
    if resize not in RESIZES:
        raise unknown("resize", resize, RESIZES)
    suffix, prepare = RESIZES[resize]
    return INCEPTION.extractor(weights, prepare, suffix, shape=shape, num_levels=num_levels, batch_size=batch_size)
