"""Published networks for photographs as extractors: their weights, their input and their classes."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Num

from score_sde.errors import UserError
from score_sde.metrics.extractors.base import ImageExtractor, check_colors
from score_sde.metrics.extractors.layers import (
    Conv,
    Images,
    Shapes,
    Tensors,
    dense,
    file_sha256,
    fold,
    folded,
    kernels_of,
    read_tensors,
    tensors_of,
    to_rgb,
)
from score_sde.typing import Params

_EPSILON = 1e-3  # of the batch normalizations of all of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network of normalized convolutions, whose features are means over pixels, and a dense layer of logits."""

    name: str
    network: Callable[[Conv, Images], Array]  # from its convolutions and its input to the features
    size: int  # height and width of its input
    num_features: int
    num_classes: int
    tensors: Callable[[str], Tensors]  # the names, in a file of its weights, of the parts of a layer
    head: str  # the name of the dense layer there
    biased: bool  # whether the logits include the bias of the dense layer
    hint: str  # where its weights come from
    missing: str  # the end of the sentence about an extractor without weights

    @functools.cached_property
    def _kernels(self) -> Shapes:
        return kernels_of(self.network, (self.size, self.size, 3))

    def expected_tensors(self) -> Shapes:
        """Names and shapes of all tensors in a file of its weights."""
        head = {f"{self.head}.weight": (self.num_classes, self.num_features), f"{self.head}.bias": (self.num_classes,)}
        return tensors_of(self._kernels, self.tensors) | head

    def load_params(self, path: Path) -> Params:
        """The parameters from a file, with the normalizations folded into the convolutions.

        Raises:
            UserError: If the file is missing or holds something else.
        """
        if not path.exists():
            raise UserError(f"There is no file {path} of weights for extractor {self.name}. {self.hint}")
        tensors = read_tensors(path, self.expected_tensors(), network=self.name, hint=self.hint)
        layers = {name: fold(tensors, self.tensors(name), epsilon=_EPSILON) for name in self._kernels}
        kernel, bias = (np.asarray(tensors[f"{self.head}.{part}"], np.float32) for part in ("weight", "bias"))
        return layers | {self.head: (kernel.T, bias if self.biased else None)}

    def extractor(
        self, weights: Path | None, prepare: Callable[[Images], Images], suffix: str = "", **of_images: Any
    ) -> ImageExtractor:
        """The network as an extractor. Gray images become RGB with equal channels, and its name then ends in ``-grey``.

        ``prepare`` maps levels to the input of the network, and adds ``suffix`` to the name; the rest describes the
        images.
        """
        shape = of_images["shape"]
        name = f"{self.name}{suffix}{'-grey' if shape[-1:] == (1,) else ''}"
        check_colors(name, shape, of_images["num_levels"])
        if weights is None:
            raise UserError(f"Extractor {self.name} {self.missing}. {self.hint}")

        def forward(params: Params, images: Num[Array, "batch height width channels"]) -> tuple[Array, Array]:
            features = self.network(folded(params), prepare(to_rgb(images.astype("float32"))))
            kernel, bias = params[self.head]
            logits = dense(features, kernel)
            return features, logits if bias is None else logits + bias.reshape(1, -1)

        return ImageExtractor(
            name=name,
            params=self.load_params(weights),
            sha256=file_sha256(weights),
            num_features=self.num_features,
            num_classes=self.num_classes,
            forward=forward,
            **of_images,
        )
