"""Checkpoints as the originals write them, of nine small U-Nets whose weights follow a rule.

``data/unets.npz`` holds inputs and outputs of the original score_sde (revision 0acb9e0e, run unmodified) for nine small
U-Nets that between them use every option; ``data/unets.json.gz`` holds their configurations and the names of their
parameters in score_sde_pytorch and in score_sde. Their weights follow a rule, so they need not be stored.
"""

import gzip
import json
import zlib
from pathlib import Path

import msgpack
import numpy as np

from score_sde.config import default_config
from score_sde.models.registry import make_network
from tests.interop import torch_writer as writer

DATA = Path(__file__).parent / "data"
CASES = json.loads(gzip.decompress((DATA / "unets.json.gz").read_bytes()))
SHAPE = (16, 16, 3)
OURS = {
    **{"nf": "features", "ch_mult": "channel_multipliers", "num_res_blocks": "num_blocks"},
    **{"attn_resolutions": "attention_resolutions", "resamp_with_conv": "resample_with_conv"},
    **{"embedding_type": "embedding", "nonlinearity": "activation"},
}


def config(case):
    config = default_config()
    config.data.centered, config.data.shape = case["centered"], SHAPE
    for name, value in case["model"].items():
        if (ours := OURS.get(name, name)) in config.model:
            config.model[ours] = tuple(value) if isinstance(value, list) else value
    return config


def network(case):
    settings = config(case)
    return make_network(dict(settings.model), SHAPE, num_scales=1000, centered=settings.data.centered)


def weights(name, shape):
    """The rule: uniform of variance 1 / fan-in, gains about 1, small biases, frequencies of scale 16."""
    rng, leaf = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF), name.rsplit(".", 1)[-1]
    if leaf == "W" and len(shape) == 1:
        draw = 16 * rng.randn(*shape)
    elif leaf in ("W", "weight") and len(shape) > 1:
        fan_in = shape[0] if leaf == "W" else np.prod(shape[1:])
        draw = rng.uniform(-1, 1, shape) * np.sqrt(3 / fan_in)
    else:
        draw = 1 + 0.2 * rng.randn(*shape) if leaf == "weight" else 0.1 * rng.randn(*shape)
    return draw.astype(np.float32)


def torch_state(case):
    return {name: weights(name, tuple(shape)) for name, _, shape in case["names"]}


def flax_tree(case):
    """The same weights under the names and in the layout of the JAX original, (1, 1, 1, C) normalizations included."""
    tree = {}
    for (_, path, _), value in zip(case["names"], torch_state(case).values(), strict=True):
        turned = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim) if path.endswith(("kernel", "weight")) else None
        value = np.ascontiguousarray(value.transpose(turned)) if turned else value
        node, parts = tree, path.split("/")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value[None, None, None] if "GroupNorm" in path else value
    return tree


def contiguous(key, storage, shape):
    """A tensor of one storage, in C order."""
    return writer.tensor(key, storage, 0, shape, tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))))


def ncsnv2_file(path, states, *, layout):
    """As ncsnv2 saves: a list of the model, the optimizer, epoch, step and the averages by name."""
    storages, written = {}, []
    for state in states:
        keys = {name: str(len(storages) + i) for i, name in enumerate(state)}
        storages |= {keys[name]: value.ravel() for name, value in state.items()}
        written.append({name: contiguous(keys[name], value.ravel(), value.shape) for name, value in state.items()})
    model, averages = written
    pickled = writer.assemble([model, {"state": {}, "param_groups": []}, 3, 11, averages])
    path.write_bytes(writer.LAYOUTS[layout](pickled, storages))


def torch_file(path, case, *, layout="zip", shadow_of=lambda value: value + 1.0):
    """As score_sde_pytorch saves: the model behind DataParallel, averages as a list without the frequencies."""
    state = torch_state(case)
    storages = {str(i): value.ravel() for i, value in enumerate(state.values())}
    frequencies = [name for name, value in state.items() if name.endswith(".W") and value.ndim == 1]
    averaged = {name: shadow_of(value) for name, value in state.items() if name not in frequencies}
    storages |= {f"s{i}": value.ravel() for i, value in enumerate(averaged.values())}
    storages["sigmas"] = np.geomspace(50, 0.01, 10)

    def tensor(key, value):
        return contiguous(key, storages[key], value.shape)

    model = {"module.sigmas": writer.tensor("sigmas", storages["sigmas"])}
    model |= {f"module.{name}": tensor(str(i), value) for i, (name, value) in enumerate(state.items())}
    shadow = [tensor(f"s{i}", value) for i, value in enumerate(averaged.values())]
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
    pickled = writer.assemble({"optimizer": {"state": {}}, "model": model, "ema": ema, "step": 7})
    path.write_bytes(writer.LAYOUTS[layout](pickled, storages))
    return averaged


def flax_file(path, tree, ema):
    """As flax.training.checkpoints.save_checkpoint writes."""

    def pack(value):
        if isinstance(value, np.ndarray):
            inner = msgpack.packb((value.shape, value.dtype.name, value.tobytes("C")), use_bin_type=True)
            return msgpack.ExtType(1, inner)
        raise TypeError(type(value))

    state = {"step": 9, "optimizer": {"target": tree, "state": {"step": 9}}, "params_ema": ema, "ema_rate": 0.999}
    path.write_bytes(msgpack.packb(state, default=pack, strict_types=True))


def config_file(path, config):
    """A configuration file that sets the model and the data of ``config``."""
    fields = {f"{part}.{name}": value for part in ("model", "data") for name, value in config[part].items()}
    path.write_text(
        "from score_sde.config import default_config\n\n\ndef get_config():\n    config = default_config()\n"
        + "".join(f"    config.{name} = {value!r}\n" for name, value in fields.items())
        + "    return config\n"
    )
    return path
