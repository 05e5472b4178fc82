"""The size of a network, from its fields alone, before anything is allocated or traced."""

import itertools
import math
from collections.abc import Mapping
from typing import Any


def padded_size(length: int, factor: int) -> int:
    """The least multiple of a factor from a length on.

    >>> padded_size(28, 8), padded_size(32, 8)
    (32, 32)
    """
    return -(-length // factor) * factor


def map_sizes(length: int, levels: int, patch_size: int = 1) -> list[int]:
    """The sizes of the feature maps of a U-Net along an axis, level by level.

    >>> map_sizes(28, 4)
    [32, 16, 8, 4]
    """
    whole = padded_size(length, patch_size * 2 ** (levels - 1)) // patch_size
    return [whole // 2**level for level in range(levels)]


def possible_sizes(length: int, levels: int, patch_size: int = 1) -> list[int]:
    """The sizes of the feature maps along an axis, of this U-Net and of one that pads nothing, the largest first.

    >>> possible_sizes(12, 4)
    [16, 12, 8, 6, 4, 3, 2, 1]
    """
    whole = length // patch_size
    unpadded = (whole // 2**level for level in range(whole.bit_length()))
    return sorted({*map_sizes(length, levels, patch_size), *unpadded}, reverse=True)


def mlp_count(fields: Mapping[str, Any], event_shape: tuple[int, ...], num_scales: int = 1) -> float:
    """The approximate number of parameters of the network for vectors; counts here keep the largest term per layer.

    The fields are those of ``config.model``.

    >>> mlp_count({"features": 100, "num_blocks": 3}, (2,))
    101000.0
    """
    features = float(fields["features"])
    # Two layers and the shift by the embedding in each block; two of the embedding; the first layer and the last.
    return 3.0 * fields["num_blocks"] * features**2 + features**2 + 5.0 * features * math.prod(event_shape)


def refinenet_count(fields: Mapping[str, Any], event_shape: tuple[int, ...], num_scales: int = 1) -> float:
    """The count for NCSNv2: about 50 convolutions, most with twice the features."""
    return 50.0 * 9.0 * (2.0 * float(fields["features"])) ** 2


def ncsn_count(fields: Mapping[str, Any], event_shape: tuple[int, ...], num_scales: int = 1) -> float:
    """The count for NCSN, with three more numbers per channel and level."""
    return refinenet_count(fields, event_shape) + 300.0 * float(fields["features"]) * num_scales


def unet_count(fields: Mapping[str, Any], event_shape: tuple[int, ...], num_scales: int = 1) -> float:
    """The count for a U-Net, whose convolutions take three values along every axis."""
    widths = [float(fields["features"]) * multiplier for multiplier in fields["channel_multipliers"]]
    taps = 3.0 ** (len(event_shape) - 1)
    # Down two convolutions of w by w in each block, up one of them of 2 w by w, in one block more.
    return sum((2.0 * fields["num_blocks"] + 3.0 * (fields["num_blocks"] + 1)) * taps * width**2 for width in widths)


def autoencoder_count(fields: Mapping[str, Any], event_shape: tuple[int, ...], num_scales: int = 1) -> float:
    """The count for an autoencoder: dense layers in both directions, and the convolutions before and after them."""
    channels, size = [float(channel) for channel in fields["channels"]], float(math.prod(event_shape))
    ends = [event_shape[-1], *channels]
    if channels:
        size *= channels[-1] / event_shape[-1] / 4.0 ** len(channels)
    widths = [size, *map(float, fields["widths"]), 2.0 * fields["latent_dim"]]
    dense = sum(a * b for a, b in itertools.pairwise(widths))
    return 2.0 * dense + 18.0 * sum(a * b for a, b in itertools.pairwise(ends))


def dequantizer_count(fields: Mapping[str, Any], event_shape: tuple[int, ...]) -> float:
    """The approximate number of parameters of a dequantizer's flow.

    The fields are those of ``config.dequantizer``.

    >>> sizes = {"filters": 96, "blocks": 2, "components": 32, "num_flows": 4}
    >>> round(dequantizer_count(sizes, (32, 32, 3)), -6)
    3000000.0
    """
    filters, (height, width, channels) = float(fields["filters"]), event_shape
    # Gated convolutions and attention in each block, the parameters of all mixtures, and a number for every position.
    coupling = 28.0 * fields["blocks"] * filters**2 + 9.0 * filters * channels * (2 + 3 * fields["components"])
    return fields["num_flows"] * (coupling + filters * height * width / 2.0)


def feature_numbers(fields: Mapping[str, Any], event_shape: tuple[int, ...]) -> float:
    """The size of one example where a score network is largest: the data, or the first feature maps.

    >>> feature_numbers({"features": 100}, (2,)), feature_numbers({"features": 1}, (8, 8, 3))
    (100.0, 192.0)
    """
    return max(float(math.prod(event_shape)), float(fields["features"]) * math.prod(event_shape[:-1]))
