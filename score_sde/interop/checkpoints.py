"""Import of other implementations' checkpoints as parameters, and export of ours.

The files are data: they are read without PyTorch, and nothing in them is executed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.errors import UserError
from score_sde.interop.convert import (
    Initialized,
    Named,
    Shapes,
    expected_shapes,
    fit,
    flatten,
    from_flax_names,
    from_torch_names,
)
from score_sde.interop.flax_files import read_flax
from score_sde.interop.safetensors_files import read_safetensors, write_safetensors
from score_sde.interop.sniff import file_kind
from score_sde.interop.torch_files import read_torch
from score_sde.typing import Network, Params

STEP = "score_sde_step"  # the only metadata of our safetensors files: the library would write several in any order

_BESIDE = ("ema_width", "ema_step")  # arrays of our files that identify the average
_DIGITS = re.compile("[0-9]{1,19}")


class Imported(NamedTuple):
    """The imported content of a checkpoint."""

    params: Params  # the average, where it is alone
    ema_params: Params
    step: int


def import_checkpoint(path: Path, network: Network, event_shape: tuple[int, ...]) -> Imported:
    """Parameters, their moving average and the step from a published checkpoint.

    Reads PyTorch checkpoints of ``score_sde_pytorch`` and ``ncsnv2``, Flax checkpoints of ``score_sde`` and
    ``score_flow``, and the safetensors files of :func:`export_checkpoint`.

    Raises:
        UserError: If the file cannot be read, or holds the parameters of another network; the message names the first
            parameter that does not fit.
    """
    kind = file_kind(path)
    shapes = expected_shapes(network, event_shape)
    if kind == "safetensors":
        return _from_safetensors(path, shapes)
    if kind == "flax":
        return _from_flax(read_flax(path), shapes, str(path))
    return _from_torch(read_torch(path), shapes, str(path))


def import_classifier(path: Path, classifier: Initialized, event_shape: tuple[int, ...]) -> Params:
    """The parameters of a classifier of noisy images from a Flax checkpoint of ``score_sde``.

    Raises:
        UserError: If the file cannot be read, or holds other parameters; the message names the first of them.
    """
    tree = dict(_unwrap(read_flax(path)))
    # Ours names the second layer of the noise embedding first.
    named = {name: tree.get({"Dense_0": "Dense_1", "Dense_1": "Dense_0"}.get(name, name), {}) for name in tree}
    return fit(flatten(named), expected_shapes(classifier, event_shape), str(path))


def export_checkpoint(
    path: Path,
    params: Params | None,
    ema_params: Params,
    step: int,
    *,
    dtype: str = "float32",
    ema_width: float = 0.0,
    ema_step: int | None = None,
) -> None:
    """Write parameters and their moving average as safetensors, under ``params/`` and ``ema_params/``.

    Two numbers beside them, ``ema_width`` and ``ema_step``, identify the average. It may be alone, without parameters.

    The step is stored in the metadata. A width of 0 stands for the average kept in training; its step is ``step``
    unless given.

    Raises:
        UserError: For a parameter that the type does not hold, or if the file cannot be written.
    """
    groups = {name: tree for name, tree in (("params", params), ("ema_params", ema_params)) if tree is not None}
    named = flatten({name: jax.device_get(tree) for name, tree in groups.items()})
    tensors = {name: _stored(name, value, dtype) for name, value in named.items()}
    of_average = np.asarray(ema_width, np.float64), np.asarray(step if ema_step is None else ema_step, np.int64)
    tensors |= dict(zip(_BESIDE, of_average, strict=True))
    write_safetensors(path, tensors, {STEP: str(step)})


def _stored(name: str, value: Any, dtype: str) -> np.ndarray:
    array = np.asarray(value)
    if (largest := np.abs(array).max(initial=0.0)) > np.finfo(dtype).max:
        raise UserError(
            f"The parameter '{name}' has values up to {largest:.3g}, and config.export.dtype={dtype} holds none beyond "
            f"{np.finfo(dtype).max:g}; expected config.export.dtype=float32."
        )
    return array.astype(dtype)


def _from_safetensors(path: Path, shapes: Shapes) -> Imported:
    tensors, metadata = read_safetensors(path)
    if not _DIGITS.fullmatch(metadata.get(STEP, "")):
        raise UserError(
            f"{path} has no whole number as {STEP} in its metadata; expected a file that --mode=export of score_sde "
            "wrote."
        )
    groups: dict[str, Named] = {"params/": {}, "ema_params/": {}}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in groups if name.startswith(prefix)), None)
        if prefix is not None:
            groups[prefix][name.removeprefix(prefix)] = value
        elif name not in _BESIDE:
            raise UserError(
                f"{path} has the array '{name}', which is none of the parameters (under {' and '.join(groups)}); "
                "expected a file that --mode=export of score_sde wrote."
            )
    if not groups["ema_params/"]:
        raise UserError(f"{path} has no array under ema_params/; expected the average of the parameters.")
    found = {
        prefix: fit(group, shapes, str(path), where=prefix, old=False) for prefix, group in groups.items() if group
    }
    ema = found["ema_params/"]
    raw = found.get("params/", ema)
    return Imported(raw, ema, _step(int(metadata[STEP]), str(path)))


def _from_flax(state: Mapping[str, Any], shapes: Shapes, source: str) -> Imported:
    target = state.get("optimizer", {}).get("target") if isinstance(state.get("optimizer"), Mapping) else None
    ema = state.get("params_ema")
    if not isinstance(target, Mapping) or not isinstance(ema, Mapping):
        raise UserError(
            f"{source} holds {_some(state)}; expected a training state of score_sde or score_flow, with "
            "'optimizer' and 'params_ema'."
        )
    raw, average = (fit(from_flax_names(_unwrap(tree)), shapes, source) for tree in (target, ema))
    return Imported(raw, average, _step(state.get("step"), source))


def _unwrap(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Some releases of Flax keep the tree one level down."""
    return tree["params"] if set(tree) == {"params"} and isinstance(tree["params"], Mapping) else tree


def _from_torch(contents: Any, shapes: Shapes, source: str) -> Imported:
    if isinstance(contents, list | tuple) and contents and isinstance(contents[0], Mapping):
        return _from_ncsnv2(list(contents), shapes, source)
    if not isinstance(contents, Mapping) or not isinstance(contents.get("model"), Mapping):
        raise UserError(
            f"{source} holds {_some(contents)}; expected a checkpoint of score_sde_pytorch, with 'model', 'ema' and "
            "'step'."
        )
    model = _arrays(contents["model"], source)
    raw = fit(from_torch_names(model, shapes), shapes, source)
    ema = contents.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list | tuple):
        raise UserError(f"{source} has no moving average ('ema' with 'shadow_params'); expected one.")
    average = fit(from_torch_names(_with_shadow(model, shadow, source), shapes), shapes, source)
    return Imported(raw, average, _step(contents.get("step"), source))


def _with_shadow(model: Named, shadow: Any, source: str) -> Named:
    """The state dict with the averaged values, which come as a list in the order of the trained parameters."""
    parameters = [name for name in model if name.removeprefix("module.") != "sigmas"]
    # The Fourier frequencies are not trained, and so not averaged.
    trained = [name for name in parameters if not (name.endswith("all_modules.0.W") and model[name].ndim == 1)]
    if len(shadow) != len(trained):
        raise UserError(f"{source} averages {len(shadow)} parameters; expected {len(trained)}, those of its model.")
    return model | _arrays(dict(zip(trained, shadow, strict=True)), source)


def _from_ncsnv2(states: list[Any], shapes: Shapes, source: str) -> Imported:
    """``[model, optimizer, epoch, step]`` and, with averaging, the averaged parameters by name."""
    model = _arrays(states[0], source)
    average = model | _arrays(states[4], source) if len(states) > 4 and isinstance(states[4], Mapping) else model
    raw, ema = (fit(from_torch_names(named, shapes), shapes, source) for named in (model, average))
    return Imported(raw, ema, _step(states[3] if len(states) > 3 else 0, source))


def _arrays(named: Mapping[Any, Any], source: str) -> Named:
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise UserError(f"{source} has the entry {name!r} of type {type(value).__name__}; expected an array.")
    return dict(named)


def _step(value: Any, source: str) -> int:
    number = np.asarray(value)
    if number.shape != () or number.dtype.kind not in "iu" or not 0 <= number < 2**31:
        raise UserError(f"{source} has the step {value!r}; expected a whole number from 0.")
    return int(number)


def _some(contents: Any) -> str:
    if not isinstance(contents, Mapping):
        return f"a {type(contents).__name__}"
    return "the entries " + ", ".join(map(repr, list(contents)[:8])) if contents else "nothing"
