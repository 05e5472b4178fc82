"""From a name and its fields to a network or a dequantizer: the registries of both."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn

from score_sde.errors import UserError, unknown
from score_sde.models.adapters import LinenClassifier, LinenDequantizer, LinenNetwork
from score_sde.models.adapters.own import Asked, own_network, refuse_bfloat16
from score_sde.models.classifier import PointClassifier, WideResNet
from score_sde.models.edm2 import EDM2
from score_sde.models.flowpp import FlowPP
from score_sde.models.magnitudes import unit_weights
from score_sde.models.mlp import MLP
from score_sde.models.ncsn import NCSN, NCSNv2
from score_sde.models.ncsnpp import DDPM, NCSNpp
from score_sde.models.sizes import autoencoder_count, mlp_count, ncsn_count, refinenet_count, unet_count
from score_sde.models.vae import VAE, LinenVAE, make_vae
from score_sde.outside.parts import Part, Registry
from score_sde.typing import Network, Params


class Family(NamedTuple):
    """A kind of network and its properties."""

    module: Any  # a type of modules, or a part of the user's own
    num_parameters: Callable[..., float]  # about
    fixed: Mapping[str, Any] = MappingProxyType({})  # fields that the name fixes
    ranks: tuple[int, ...] = (3,)  # numbers of axes of an example
    halvings: int = 0  # number of halvings of its images, whose sizes must allow them
    is_latent: bool = False  # an encoder and a decoder without a score
    looks_up_level: bool = False  # by its number
    needs_embedding: bool = False
    takes_labels: bool = False
    gives_logits: bool = False  # of the gray levels of every value, as parameterization.output=levels takes them
    takes_spans: bool = False  # whether it can be told two times
    takes_augmentations: bool = False  # whether it can be told how its images were changed
    project: Callable[[Params], Params] | None = None  # where training moves the parameters after every update


# Fields that the original DDPM does not read from its configuration.
_DDPM = {
    **{"resblock_type": "ddpm", "skip_rescale": False, "min_group_channels": 1, "init_scale": 0.0, "fir": False},
    # Without filter and pyramid these do nothing.
    **{"progressive": "none", "progressive_input": "none", "progressive_combine": "sum", "fir_kernel": (1, 3, 3, 1)},
}
_GRIDS = (2, 3, 4)  # of series (L, C), images (H, W, C) and volumes (D, H, W, C)
_RANKS = {1: "vectors (D,)", 2: "series (L, C)", 3: "images (H, W, C)", 4: "volumes (D, H, W, C)"}
_UNET: Mapping[str, Any] = {
    **{"ranks": _GRIDS, "takes_labels": True, "takes_spans": True, "gives_logits": True, "takes_augmentations": True}
}
_NETWORKS: Mapping[str, Family] = {
    "ncsnpp": Family(NCSNpp, unet_count, **_UNET),
    "ddpm": Family(DDPM, unet_count, _DDPM, **_UNET),
    "edm2": Family(EDM2, unet_count, ranks=_GRIDS, takes_labels=True, project=unit_weights),
    "ncsn": Family(NCSN, ncsn_count, {"resolution": 64}, halvings=1, looks_up_level=True),
    "ncsnv2_64": Family(NCSNv2, refinenet_count, {"resolution": 64}, halvings=1),
    "ncsnv2_128": Family(NCSNv2, refinenet_count, {"resolution": 128}, halvings=2),
    "ncsnv2_256": Family(NCSNv2, refinenet_count, {"resolution": 256}, halvings=3),
    "mlp": Family(MLP, mlp_count, ranks=(1,), needs_embedding=True, takes_labels=True, takes_spans=True),
    "vae": Family(VAE, autoencoder_count, ranks=(1, *_GRIDS), is_latent=True),
}
#: Networks by the names of ``config.model.name``. How large one of the user's own is shows when it is made.
NETWORKS: Mapping[str, Family] = Registry(
    "model.name",
    _NETWORKS,
    adopt=lambda part: Family(
        part, lambda *_: 0.0, ranks=(1, *_GRIDS), takes_labels=True, gives_logits=True, takes_spans=True
    ),
)
DEQUANTIZERS: Mapping[str, type[nn.Module]] = {"flowpp": FlowPP}


def make_network(
    fields: Mapping[str, Any],
    event_shape: tuple[int, ...],
    *,
    num_scales: int,
    centered: bool,
    num_outputs: int | None = None,
) -> Network:
    """The network for data of a shape.

    Each network takes its own fields of ``config.model``; NCSN takes the number of noise levels. Images that are not
    centered in [-1, 1] are mapped there by the network. It has an output for every value, or as many as are given.

    Raises:
        UserError: For an unknown name, and shapes that the network does not support.
    """
    if fields["name"] not in NETWORKS:
        raise unknown("network", fields["name"], NETWORKS)
    family = NETWORKS[fields["name"]]
    if isinstance(family.module, Part):
        refuse_bfloat16(family.module, fields["dtype"])
        asked = Asked(event_shape, fields["num_classes"], num_outputs, fields.get("spans", False))
        return own_network(family.module, fields.get("options", {}), asked)
    _check_shape(fields, family, event_shape)
    given = {**fields, "rescale_input": not centered, "num_outputs": num_outputs, **family.fixed}
    if family.looks_up_level:
        given["num_classes"] = num_scales
    return LinenNetwork(family.module(**_known(family.module, given)), fields["dtype"])


def make_latent_model(fields: Mapping[str, Any], event_shape: tuple[int, ...]) -> LinenVAE:
    """The variational autoencoder for data of a shape.

    Raises:
        UserError: For unknown names, sizes out of range, and shapes that the convolutions cannot take.
    """
    return make_vae(event_shape, **_known(VAE, fields))


def make_dequantizer(
    fields: Mapping[str, Any], event_shape: tuple[int, ...], num_grey_levels: int | None
) -> LinenDequantizer | None:
    """The dequantizer for images of a shape, or ``None`` if none is named.

    Raises:
        UserError: For unknown names, data that are not images of gray levels, images of an odd width, and heads that
            do not divide the filters.
    """
    name = fields["name"]
    if name == "none":
        return None
    if name not in DEQUANTIZERS:
        raise unknown("dequantizer", name, ("none", *DEQUANTIZERS))
    if len(event_shape) != 3 or num_grey_levels is None:
        kind = "continuous" if num_grey_levels is None else "discrete"
        raise UserError(
            f"The dequantizer '{name}' takes images (H, W, C) of gray levels; the data have shape {event_shape} and "
            f"are {kind}. Set config.dequantizer.name=none."
        )
    if event_shape[1] % 2:
        raise UserError(
            f"Images of {event_shape[0]}x{event_shape[1]} have more even columns than odd ones; the dequantizer "
            f"'{name}' expects an even width. Pad the images, or set config.dequantizer.name=none."
        )
    filters, heads = fields["filters"], fields["heads"]
    if filters % heads:
        raise UserError(
            f"config.dequantizer.filters is {filters}; expected a multiple of config.dequantizer.heads, {heads}."
        )
    return LinenDequantizer(DEQUANTIZERS[name](**_known(DEQUANTIZERS[name], fields)), num_grey_levels)


def make_classifier(fields: Mapping[str, Any], event_shape: tuple[int, ...], num_classes: int) -> LinenClassifier:
    """The classifier of noisy data of a shape: of images a wide residual network, of points dense layers.

    Raises:
        UserError: For images whose sides are no multiples of four.
    """
    if len(event_shape) != 3:
        size = {"num_blocks": fields["num_blocks"], "features": 16 * fields["widening"]}
        return LinenClassifier(PointClassifier(num_classes=num_classes, **size), num_classes)
    if event_shape[0] % 4 or event_shape[1] % 4:
        raise UserError(
            f"Images of {event_shape[0]}x{event_shape[1]} cannot be halved twice, as the classifier of noisy images "
            "does: expected a multiple of 4. Pad the images."
        )
    size = {"num_blocks": fields["num_blocks"], "widening": fields["widening"]}
    return LinenClassifier(WideResNet(num_classes=num_classes, **size), num_classes)


def _known(module: type[nn.Module], fields: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(module)} - {"name", "parent"}
    return {name: value for name, value in fields.items() if name in known}


def _check_shape(fields: Mapping[str, Any], family: Family, event_shape: tuple[int, ...]) -> None:
    name, rank = fields["name"], len(event_shape)
    if rank not in family.ranks:
        kinds = [_RANKS[known] for known in family.ranks]
        taken = ", ".join(kinds[:-1]) + " or " * (len(kinds) > 1) + kinds[-1]
        fitting = next((other for other in ("ncsnpp", "mlp") if rank in NETWORKS[other].ranks), None)
        advice = "Expected 1 to 4 axes." if fitting is None else f"Set config.model.name={fitting}."
        raise UserError(f"The network '{name}' takes {taken}; the data have shape {event_shape}. {advice}")
    factor = 2**family.halvings
    if any(length % factor for length in event_shape[:-1]):
        size = "x".join(map(str, event_shape[:-1]))
        raise UserError(
            f"Images of {size} cannot be halved {family.halvings} times: expected a multiple of {factor}, or the "
            "network ncsnpp, which pads them."
        )
