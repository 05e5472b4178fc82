"""The names of NCSN and NCSNv2 parameters: PyTorch state dictionaries against the tree of the Flax networks.

The names come from ``ermongroup/ncsn``, ``ermongroup/ncsnv2`` and ``score_sde_pytorch``, without the prefix
``module.``. A convolution kernel is stored OIHW there and HWIO here; every other array is stored alike. The Flax
networks have ``pytorch=True``; they do not reproduce ``score_sde_pytorch``, whose dilated convolutions have too little
padding.
"""

import functools
from collections.abc import Iterable, Iterator

from score_sde.errors import UserError

STAGES = ("1", "2", "3", "4", "5")
DEEPEST_STAGES = ("1", "2", "3", "31", "4", "5")  # of the network for 256 pixels, where 31 comes after 3
DEEPEST_REFINEMENTS = ("1", "2", "31", "3", "4", "5")  # refinements run the other way, so here 31 comes before 3

CONV_ARRAYS = {"weight": "kernel", "bias": "bias"}
NORM_ARRAYS = {name: name for name in ("alpha", "beta", "gamma")}
CONDITIONAL_NORM_ARRAYS = {"embed.weight": "Embed_0/embedding"}
OUTER = {"begin_conv": "Conv_0", "end_conv": "Conv_1", "normalizer": "{norm}_0"}
RESIDUAL = {
    "conv1": "Conv_0",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
    "conv2.conv": "ConvMeanPool_0/Conv_0",
    "shortcut.conv": "ConvMeanPool_1/Conv_0",
    "normalize1": "{norm}_0",
    "normalize2": "{norm}_1",
}
LAYERS = {"conv": "Conv", "norm": "{norm}"}


def torch_to_flax(name: str, *, conditional: bool = False, deepest: bool = False) -> str | None:
    """The path of a PyTorch parameter in the Flax tree, or ``None`` for a buffer.

    ``conditional`` networks are NCSN, whose blocks have other names; ``deepest`` is the one for 256 pixels, with one
    more stage in the middle.

    Raises:
        UserError: If no such network has a parameter of that name.

    >>> torch_to_flax("refine2.adapt_convs.0.2_1_conv.weight")
    'RefineBlock_1/RCUBlock_0/Conv_2/kernel'
    >>> torch_to_flax("res4.0.conv2.weight"), torch_to_flax("res4.0.conv2.weight", deepest=True)
    ('ResidualBlock_6/Conv_1/kernel', 'ResidualBlock_8/Conv_1/kernel')
    """
    if name == "sigmas":
        return None
    if (path := _paths(conditional, deepest).get(name)) is None:
        raise UserError(f"'{name}' is not the name of a parameter of NCSN or NCSNv2.")
    return path


def flax_names(names: Iterable[str]) -> dict[str, str | None]:
    """The paths of all keys of one state dictionary, whose names reveal the network.

    Keys may have the prefix ``module.``, which stays.

    >>> flax_names(["module.sigmas", "module.normalizer.embed.weight"])["module.normalizer.embed.weight"]
    'ConditionalInstanceNorm2dPlus_0/Embed_0/embedding'
    """
    bare = {name: name.removeprefix("module.") for name in names}
    conditional = any("embed" in name for name in bare.values())
    deepest = any(name.startswith("res31.") for name in bare.values())
    return {name: torch_to_flax(key, conditional=conditional, deepest=deepest) for name, key in bare.items()}


@functools.cache
def _paths(conditional: bool, deepest: bool) -> dict[str, str]:
    long, short = ("Conditional", "Cond") if conditional else ("", "")
    blocks = {"cond": short, "residual": f"{long}ResidualBlock", "norm": f"{long}InstanceNorm2dPlus"}
    norm_arrays = CONDITIONAL_NORM_ARRAYS if conditional else NORM_ARRAYS
    return {
        f"{layer}.{array}": f"{path.format(**blocks)}/{ours}"
        for layer, path in _layers(deepest)
        for array, ours in (norm_arrays if "{norm}" in path else CONV_ARRAYS).items()
    }


def _layers(deepest: bool) -> Iterator[tuple[str, str]]:
    """The names of all layers in both, with the kinds of blocks left open in the second."""
    yield from OUTER.items()
    for index, stage in enumerate(DEEPEST_STAGES if deepest else STAGES):
        for half in range(2):
            block = f"{{residual}}_{2 * index + half}"
            yield from ((f"res{stage}.{half}.{layer}", f"{block}/{path}") for layer, path in RESIDUAL.items())
    for index, refinement in enumerate(DEEPEST_REFINEMENTS if deepest else STAGES):
        name, block = f"refine{refinement}", f"{{cond}}RefineBlock_{index}"
        for kind, layer in LAYERS.items():
            for number in range(2):
                yield f"{name}.msf.{kind}s.{number}", f"{block}/{{cond}}MSFBlock_0/{layer}_{number}"
                yield f"{name}.crp.{kind}s.{number}", f"{block}/{{cond}}CRPBlock_0/{layer}_{number}"
            # The units of the inputs come first; all refinements but the first have two inputs.
            for units, place in {"adapt_convs.0": 0, "adapt_convs.1": 1, "output_convs": min(index, 1) + 1}.items():
                for number in range(6):
                    unit = f"{name}.{units}.{number // 2 + 1}_{number % 2 + 1}_{kind}"
                    yield unit, f"{block}/{{cond}}RCUBlock_{place}/{layer}_{number}"
