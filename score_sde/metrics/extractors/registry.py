"""From a name to an extractor."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from score_sde.errors import UserError, unknown
from score_sde.metrics.extractors import classifier, efficientnet, inception, pixels
from score_sde.metrics.extractors.base import Extractor, check_images

Maker: TypeAlias = Callable[[tuple[int, ...], int | None, Path | None], Extractor]


def _make_pixels(shape: tuple[int, ...], num_levels: int | None, weights: Path | None) -> Extractor:
    if weights is not None:
        raise UserError(f"Extractor pixels has no weights, and was given {weights}. Leave the file out.")
    return pixels.make_pixels(shape, num_levels)


def _make_classifier(data: str) -> Maker:
    def make(shape: tuple[int, ...], num_levels: int | None, weights: Path | None) -> Extractor:
        levels = check_images(f"classifier-{data}", shape, num_levels)
        return classifier.make_classifier(data, shape=shape, num_levels=levels, weights=weights)

    return make


def _make_inception(resize: str) -> Maker:
    def make(shape: tuple[int, ...], num_levels: int | None, weights: Path | None) -> Extractor:
        return inception.make_inception(weights, shape=shape, num_levels=num_levels, resize=resize)

    return make


def _make_efficientnet(shape: tuple[int, ...], num_levels: int | None, weights: Path | None) -> Extractor:
    return efficientnet.make_efficientnet(weights, shape=shape, num_levels=num_levels)


EXTRACTORS: Mapping[str, Maker] = {
    "pixels": _make_pixels,
    **{f"classifier-{data}": _make_classifier(data) for data in classifier.ARCHITECTURES},
    **{f"{inception.NAME}{suffix}": _make_inception(resize) for resize, (suffix, _) in inception.RESIZES.items()},
    efficientnet.NAME: _make_efficientnet,
}


def make_extractor(
    name: str,
    *,
    shape: tuple[int, ...],
    num_levels: int | None,
    source: str = "",
    weights: Path | None = None,
) -> Extractor:
    """The extractor of a name, for data of a shape.

    =================================  ==================================================================
    ``classifier-digits``, ``-mnist``  a small classifier of this data set; its weights come with the package
    ``inception-2015``                 the network of FID, as in the original; needs ``weights``
    ``inception-2015-pytorch-resize``  the same with images resized as in pytorch-fid
    ``efficientnet-lite0``             an ImageNet classifier; ``weights`` given or from an installed package
    ``pixels``                         the pixels
    ``auto``                           see below
    =================================  ==================================================================

    ``auto`` is the classifier of the data set ``source`` if there is one. Otherwise it is ``inception-2015`` where
    weights are given; ``efficientnet-lite0`` where its package is installed, for grey or RGB images of 256 levels; or
    ``pixels``. The extractor's own name tells the choice.

    Args:
        name: One of the above.
        shape: Shape of an example of the data, ``(height, width, channels)``.
        num_levels: The number of its levels, as in :class:`score_sde.data.SourceInfo`.
        source: The name of the data set, for ``auto``.
        weights: A file of weights.

    Raises:
        UserError: For an unknown name, data that do not suit the extractor, and weights that are missing or wrong.

    Example:
        >>> extractor = make_extractor("auto", source="digits", shape=(8, 8, 1), num_levels=17)
        >>> extractor.name, extractor.num_features
        ('classifier-digits', 64)
    """
    if name == "auto":
        name = _best(source, shape, num_levels, weights)
    if name not in EXTRACTORS:
        raise unknown("extractor", name, ["auto", *EXTRACTORS])
    return EXTRACTORS[name](shape, num_levels, weights)


def _best(source: str, shape: tuple[int, ...], num_levels: int | None, weights: Path | None) -> str:
    own = classifier.ARCHITECTURES.get(source)
    if own is not None and (own.shape, own.num_levels) == (shape, num_levels):
        return f"classifier-{source}"
    if weights is not None:
        return inception.NAME
    photographs = len(shape) == 3 and shape[-1] in (1, 3) and num_levels == 256
    return efficientnet.NAME if photographs and efficientnet.installed_weights() else "pixels"
