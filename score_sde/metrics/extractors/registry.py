"""From a name to an extractor."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from score_sde.errors import unknown
from score_sde.metrics.extractors import classifier, efficientnet, inception
from score_sde.metrics.extractors.base import Extractor, make_pixels
from score_sde.metrics.extractors.own import own_extractor
from score_sde.outside.parts import Part, Registry

#: The makers of extractors by name: functions of ``shape``, ``num_levels`` and ``weights``.
EXTRACTORS: Mapping[str, Callable[..., Extractor]] = Registry(
    "evaluation.extractor",
    {
        "pixels": make_pixels,
        **{
            f"classifier-{data}": functools.partial(classifier.make_classifier, data)
            for data in classifier.ARCHITECTURES
        },
        **{
            f"{inception.NAME}{suffix}": functools.partial(inception.make_inception, resize=resize)
            for resize, (suffix, _) in inception.RESIZES.items()
        },
        efficientnet.NAME: efficientnet.make_efficientnet,
    },
)


#: Names for data that are not images, which are their own features.
ON_POINTS = ("auto", "pixels")
#: Names of those whose weights come neither with this package nor with another one.
FETCHED = tuple(f"{inception.NAME}{suffix}" for suffix, _ in inception.RESIZES.values())


def make_extractor(
    name: str,
    *,
    shape: tuple[int, ...],
    num_levels: int | None,
    source: str = "",
    weights: Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Extractor:
    """The extractor of a name, for data of a shape.

    =================================  ==================================================================
    ``classifier-digits``, ``-mnist``  a small classifier of this data set; its weights come with the package
    ``inception-2015``                 the network of FID, as in the original; needs ``weights``
    ``inception-2015-pytorch-resize``  the same with images resized as in pytorch-fid
    ``efficientnet-lite0``             an ImageNet classifier; ``weights`` given or from an installed package
    ``pixels``                         the pixels
    ``module:name``                    one of your own, see :func:`score_sde.metrics.extractors.own.own_extractor`
    ``auto``                           see below
    =================================  ==================================================================

    ``auto`` is the classifier of the data set ``source`` if there is one. Otherwise it is ``inception-2015`` where
    weights are given; ``efficientnet-lite0`` where its package is installed, for gray or RGB images of 256 levels; or
    ``pixels``. The extractor's own name tells the choice.

    Raises:
        UserError: For an unknown name, data that do not suit the extractor, and weights that are missing or wrong.

    >>> extractor = make_extractor("auto", source="digits", shape=(8, 8, 1), num_levels=17)
    >>> extractor.name, extractor.num_features
    ('classifier-digits', 64)
    """
    if name == "auto":
        name = _best(source, shape, num_levels, weights)
    if name not in EXTRACTORS:
        raise unknown("extractor", name, ["auto", *EXTRACTORS])
    made = EXTRACTORS[name]
    if isinstance(made, Part):
        return own_extractor(made, options, shape=shape, num_levels=num_levels, weights=weights)
    return made(shape=shape, num_levels=num_levels, weights=weights)


def _best(source: str, shape: tuple[int, ...], num_levels: int | None, weights: Path | None) -> str:
    own = classifier.ARCHITECTURES.get(source)
    if own is not None and (own.shape, own.num_levels) == (shape, num_levels):
        return f"classifier-{source}"
    if weights is not None:
        return inception.NAME
    photographs = len(shape) == 3 and shape[-1] in (1, 3) and num_levels == 256
    return efficientnet.NAME if photographs and efficientnet.installed_weights() else "pixels"
