"""Parameters of the original implementations under our names, in our layout.

Both sides have the names that Flax gives in the order of the calls, so the Flax trees differ in a few prefixes only.
The PyTorch port numbers its modules in one list, in the same order.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from score_sde.errors import UserError, nearest
from score_sde.interop.ncsn_names import flax_names
from score_sde.typing import Params, PRNGKey

Named = dict[str, np.ndarray]  # parameters by path, such as "ResidualBlock_0/Conv_0/kernel"
Shapes = dict[str, tuple[int, ...]]

_ADVICE = "Give the --config that this checkpoint was trained with."
_NCSN_ADVICE = " A PyTorch release of NCSN or NCSNv2 needs --config.model.pytorch=True besides, one in Flax False."
# The originals make these frequencies for networks without a noise embedding too, and never use them.
_UNUSED = ("all_modules.0.W", "TimeEmbedding_0/FourierEmbedding_0/W")
_FLAX_RULES = [
    (r"^GaussianFourierProjection_0/W$", "TimeEmbedding_0/FourierEmbedding_0/W"),
    (r"^Dense_([01])/(kernel|bias)$", r"TimeEmbedding_0/Dense_\1/\2"),
    (r"^ResnetBlock[A-Za-z]+_(\d+)/", r"ResidualBlock_\1/"),
    (r"^AttnBlock(?:pp)?_(\d+)/", r"AttentionBlock_\1/"),
    (r"/NIN_(\d+)/W$", r"/Pointwise_\1/Dense_0/kernel"),
    (r"/NIN_(\d+)/b$", r"/Pointwise_\1/Dense_0/bias"),
    (r"^(ResidualBlock_\d+)/Conv_2/", r"\1/Pointwise_0/Dense_0/"),
    (r"^(Combine_\d+)/Conv_0/", r"\1/Pointwise_0/Dense_0/"),
    (r"^(Upsample_\d+)/Conv2d_0/bias$", r"\1/bias"),
    (r"/Conv2d_0/weight$", "/Conv_0/kernel"),
    (r"/Conv2d_0/bias$", "/Conv_0/bias"),
]


@runtime_checkable
class Initialized(Protocol):
    """A network of any kind, by the parameters that it starts with."""

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for data of a shape, batch axis included."""
        ...


def expected_shapes(network: Initialized, event_shape: tuple[int, ...]) -> Shapes:
    """Shapes of a network's parameters by path, in the order in which the network makes them."""
    shapes: Shapes = {}

    def record(key: jax.Array) -> int:
        shapes.update({name: leaf.shape for name, leaf in flatten(network.init(key, (1, *event_shape))).items()})
        return 0  # a tree would come back sorted

    jax.eval_shape(record, jax.random.key(0))
    return shapes


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries under paths, in their order.

    >>> flatten({"a": {"b": 1, "c": {}}})
    {'a/b': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of :func:`flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def from_flax_names(tree: Mapping[str, Any]) -> Named:
    """A parameter tree of score_sde or score_flow under our paths; paths of the NCSN family already agree."""
    rules = () if any("RefineBlock" in name for name in tree) else _FLAX_RULES
    named: Named = {}
    for path, value in flatten(tree).items():
        for pattern, replacement in rules:
            path = re.sub(pattern, replacement, path)
        named[path] = np.asarray(value)
    return named


def from_torch_names(state: Mapping[str, np.ndarray], shapes: Shapes) -> Named:
    """A state dict of score_sde_pytorch or ncsnv2 under our paths, kernels turned from OIHW to HWIO."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state.pop("sigmas", None)
    if not _has_embedding(shapes):
        state.pop(_UNUSED[0], None)
    if any(name.startswith("all_modules.") for name in state):
        paths = _unet_paths(state, shapes)
    else:
        paths = {name: path for name, path in flax_names(state).items() if path is not None}
    named: Named = {}
    for name, value in state.items():
        path = paths.get(name, name)
        turn = path.endswith("/kernel") and name.endswith(".weight")
        named[path] = np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else None) if turn else value
    return named


def fit(named: Named, shapes: Shapes, source: str, *, where: str = "", old: bool = True) -> Params:
    """The parameters as a tree of exactly the expected shapes, in float32.

    Errors name ``source`` and put ``where`` before the paths. Only the shapes of old releases of Flax may begin with
    ones.

    Raises:
        UserError: For a parameter that is missing, superfluous, of another shape or not finite; names the first.
    """
    advice = _ADVICE + (_NCSN_ADVICE if any("RefineBlock" in path for path in shapes) else "")
    plain = _without_leading_ones if old else tuple
    for path, shape in shapes.items():
        if path not in named:
            raise UserError(
                f"{source} has no parameter '{where}{path}', which the configuration expects with shape {shape}."
                f"{nearest(where + path, [where + name for name in named])} {advice}"
            )
        value = named[path]
        if not isinstance(value, np.ndarray) or not (value.dtype.kind == "f" or value.dtype.name == "bfloat16"):
            raise UserError(
                f"{source} has the parameter '{where}{path}' of type {value.dtype}; expected floating point."
            )
        if plain(value.shape) != plain(shape):
            raise UserError(
                f"{source} has the parameter '{where}{path}' with shape {value.shape}; the configuration expects "
                f"{shape}. {advice}"
            )
    for path in named:
        if path not in shapes and (path not in _UNUSED or _has_embedding(shapes)):
            raise UserError(
                f"{source} has a parameter '{where}{path}' that the configuration does not expect. {advice}"
            )
    return unflatten(
        {path: _finite(named[path], where + path, source).reshape(shape) for path, shape in shapes.items()}
    )


def _finite(value: np.ndarray, path: str, source: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and is refused
        values = np.array(value, np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"{source} has the parameter '{path}' with values that are not finite; expected a checkpoint of a training "
            "that did not diverge. Give an earlier one."
        )
    return values


def _has_embedding(shapes: Shapes) -> bool:
    return any(path.startswith("TimeEmbedding") for path in shapes)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Old Flax releases stored normalizations as (1, 1, 1, C), and 1x1 convolutions are our dense layers.
    return tuple(itertools.dropwhile(lambda size: size == 1, shape))


def _unet_paths(state: Mapping[str, Any], shapes: Shapes) -> dict[str, str]:
    """Our paths by PyTorch name, for known names."""
    ours = _unet_torch_names(shapes)
    split = {name: match.groups() for name in state if (match := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name))}
    # Modules without parameters have numbers too: count only the modules in the file.
    ranks = {number: rank for rank, number in enumerate(sorted({int(number) for number, _ in split.values()}))}
    keys = {name: f"{ranks[int(number)]}.{rest}" for name, (number, rest) in split.items()}
    return {name: ours[key] for name, key in keys.items() if key in ours}


def _unet_torch_names(shapes: Shapes) -> dict[str, str]:
    """Our paths by ``RANK.REST`` of their PyTorch names; where two are possible, by both."""
    names: dict[str, str] = {}
    units: list[str] = []
    for path in shapes:
        parts = path.split("/")
        depth = 2 if parts[0].startswith("TimeEmbedding") else 1
        unit, rest = "/".join(parts[:depth]), "/".join(parts[depth:])
        if unit not in units:
            units.append(unit)
        for alternative in _torch_rest(unit, rest):
            names[f"{units.index(unit)}.{alternative}"] = path
    return names


def _torch_rest(unit: str, rest: str) -> list[str]:
    """The PyTorch names that a parameter can have inside its module."""
    leaf = "weight" if rest.endswith(("kernel", "scale")) else rest.rsplit("/", 1)[-1]
    if "/" not in rest:
        # Here the bias of a filtered transposed convolution is a separate parameter.
        return [f"Conv2d_0.{leaf}"] if unit.startswith("Upsample") else [leaf]
    module = rest.split("/")[0]
    if module.startswith("Pointwise"):
        nin = f"NIN_{module.split('_')[1]}.{'W' if leaf == 'weight' else 'b'}"
        return [nin, f"{'Conv_0' if unit.startswith('Combine') else 'Conv_2'}.{leaf}"]
    if unit.startswith(("Upsample", "Downsample")):
        return [f"{module}.{leaf}", f"Conv2d_0.{leaf}"]
    return [f"{module}.{leaf}"]
