"""The names of NCSN and NCSNv2 parameters: PyTorch state dictionaries against the tree of the Flax networks.

The names come from ``ermongroup/ncsn``, ``ermongroup/ncsnv2`` and ``score_sde_pytorch``, without the prefix
``module.``. A convolution kernel is stored OIHW there and HWIO here; every other array is stored alike. The Flax
networks have ``pytorch=True``; they do not reproduce ``score_sde_pytorch``, whose dilated convolutions have too little
padding.
"""

import re
from collections.abc import Iterable

from score_sde.errors import UserError

STAGES = ("1", "2", "3", "4", "5")
DEEPEST_STAGES = ("1", "2", "3", "31", "4", "5")  # of the network for 256 pixels, where 31 comes after 3
DEEPEST_REFINEMENTS = ("1", "2", "31", "3", "4", "5")  # refinements run the other way, so here 31 comes before 3

# A name consists of the part of the network, the layer in it, and the array of the layer.
PLACE = re.compile(
    r"(?:(?P<outer>begin_conv|end_conv|normalizer)|res(?P<stage>\d+)\.(?P<half>[01])|refine(?P<refine>\d+))\.(?P<rest>.+)"
)
CONV_ARRAYS = {"weight": "kernel", "bias": "bias"}
NORM_ARRAYS = {name: name for name in ("alpha", "beta", "gamma")}
CONDITIONAL_NORM_ARRAYS = {"embed.weight": "Embed_0/embedding"}
RESIDUAL = {
    "conv1": "Conv_0",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
    "conv2.conv": "ConvMeanPool_0/Conv_0",
    "shortcut.conv": "ConvMeanPool_1/Conv_0",
    "normalize1": "{norm}_0",
    "normalize2": "{norm}_1",
}
UNITS = re.compile(
    r"(?:adapt_convs\.(?P<input>[01])|(?P<output>output_convs))\.(?P<unit>\d)_(?P<half>[12])_(?P<kind>conv|norm)"
)
LISTS = re.compile(r"(?P<block>msf|crp)\.(?P<kind>conv|norm)s\.(?P<index>[01])")


def torch_to_flax(name: str, *, conditional: bool = False, deepest: bool = False) -> str | None:
    """The path of a PyTorch parameter in the Flax tree, or ``None`` for a buffer.

    Args:
        name: A key of the state dictionary, without ``module.``.
        conditional: Whether the network is NCSN rather than NCSNv2: its blocks have other names.
        deepest: Whether it is the network for 256 pixels, which has one more stage in the middle.

    Raises:
        UserError: If no such network has a parameter of that name.

    >>> torch_to_flax("refine2.adapt_convs.0.2_1_conv.weight")
    'RefineBlock_1/RCUBlock_0/Conv_2/kernel'
    >>> torch_to_flax("res4.0.conv2.weight"), torch_to_flax("res4.0.conv2.weight", deepest=True)
    ('ResidualBlock_6/Conv_1/kernel', 'ResidualBlock_8/Conv_1/kernel')
    """
    if name == "sigmas":
        return None
    if place := PLACE.fullmatch(name):
        module, array = _split(place["rest"])
        path = None
        if place["outer"] and not module:
            path = {"begin_conv": "Conv_0", "end_conv": "Conv_1", "normalizer": "{norm}_0"}[place["outer"]]
        elif place["stage"]:
            path = _residual(place["stage"], place["half"], module, deepest)
        elif place["refine"]:
            path = _refine(place["refine"], module, deepest)
        norm_arrays = CONDITIONAL_NORM_ARRAYS if conditional else NORM_ARRAYS
        arrays = norm_arrays if path and "{norm}" in path else CONV_ARRAYS
        if path and array in arrays:
            long, short = ("Conditional", "Cond") if conditional else ("", "")
            blocks = {"cond": short, "residual": f"{long}ResidualBlock", "norm": f"{long}InstanceNorm2dPlus"}
            return f"{path.format(**blocks)}/{arrays[array]}"
    raise UserError(f"'{name}' is not the name of a parameter of NCSN or NCSNv2.")


def flax_names(names: Iterable[str]) -> dict[str, str | None]:
    """The paths of all keys of one state dictionary, whose names reveal the network.

    Args:
        names: Keys with or without the prefix ``module.``, which stays in the keys of the result.

    >>> flax_names(["module.sigmas", "module.normalizer.embed.weight"])["module.normalizer.embed.weight"]
    'ConditionalInstanceNorm2dPlus_0/Embed_0/embedding'
    """
    bare = {name: name.removeprefix("module.") for name in names}
    conditional = any("embed" in name for name in bare.values())
    deepest = any(name.startswith("res31.") for name in bare.values())
    return {name: torch_to_flax(key, conditional=conditional, deepest=deepest) for name, key in bare.items()}


def _split(rest: str) -> tuple[str, str]:
    """``a.b.weight`` is the array ``weight`` of ``a.b``; the weight of a conditional norm lies one module deeper."""
    module, _, array = rest.rpartition(".")
    if module == "embed" or module.endswith(".embed"):
        return module.removesuffix("embed").removesuffix("."), f"embed.{array}"
    return module, array


def _index(stage: str, stages: tuple[str, ...]) -> int | None:
    return stages.index(stage) if stage in stages else None


def _residual(stage: str, half: str, module: str, deepest: bool) -> str | None:
    index = _index(stage, DEEPEST_STAGES if deepest else STAGES)
    if index is None or module not in RESIDUAL:
        return None
    return f"{{residual}}_{2 * index + int(half)}/{RESIDUAL[module]}"


def _refine(refine: str, module: str, deepest: bool) -> str | None:
    index = _index(refine, DEEPEST_REFINEMENTS if deepest else STAGES)
    if index is None:
        return None
    layer = {"conv": "Conv", "norm": "{norm}"}
    if units := UNITS.fullmatch(module):
        # The units of the inputs come first; all refinements but the first have two inputs.
        block = units["input"] or (1 if index == 0 else 2)
        number = 2 * (int(units["unit"]) - 1) + int(units["half"]) - 1
        return f"{{cond}}RefineBlock_{index}/{{cond}}RCUBlock_{block}/{layer[units['kind']]}_{number}"
    if item := LISTS.fullmatch(module):
        return (
            f"{{cond}}RefineBlock_{index}/{{cond}}{item['block'].upper()}Block_0/{layer[item['kind']]}_{item['index']}"
        )
    return None
