"""Do the published networks at full size give the originals' outputs, for weights that follow a rule?

    python experiments/published_checkpoints/full_size.py OUTPUTS.npz NAMES.json.gz

NAMES holds ``{CONFIG: [[PyTorch name, shape, type], ...]}`` for configurations such as
``vp/cifar10_ddpmpp_continuous``; OUTPUTS holds ``CONFIG/labels`` and ``CONFIG/out`` at every ``CONFIG/stride``-th pixel
(channels first), as the original computed them for inputs ``RandomState(0).rand(batch, 3, size, size)``, doubled and
lowered by one where the data are centered. The weights are drawn by name, see :func:`drawn`.
"""

import argparse
import gzip
import json
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.cli import load_config, run_script
from score_sde.interop.convert import expected_shapes, fit, from_torch_names
from score_sde.models.adapters import LinenNetwork
from score_sde.models.registry import make_network

SIZES = {"church": 256, "ffhq": 1024}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform of variance 1 / fan-in, gains about 1, small biases, Fourier frequencies of scale 16."""
    rng, leaf = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF), name.rsplit(".", 1)[-1]
    if leaf == "W" and len(shape) == 1:
        draw = 16 * rng.randn(*shape)
    elif leaf in ("W", "weight") and len(shape) > 1:
        fan_in = shape[0] if leaf == "W" else np.prod(shape[1:])
        draw = rng.uniform(-1, 1, shape) * np.sqrt(3 / fan_in)
    else:
        draw = 1 + 0.2 * rng.randn(*shape) if leaf == "weight" else 0.1 * rng.randn(*shape)
    return draw.astype(np.float32)


def errors(name: str, parameters: list, outputs: dict[str, np.ndarray]) -> list[str]:
    """Largest deviation over the largest output, in float32 and in bfloat16."""
    config = load_config(Path(f"configs/{name}.py"), [])
    size = SIZES.get(name.split("/")[1].split("_")[0], 32)
    shape = (size, size, 3)
    scales, centered = config.parameterization.num_scales, config.data.centered
    network = make_network(dict(config.model), shape, num_scales=scales, centered=centered)
    shapes = expected_shapes(network, shape)
    names = [(n.removeprefix("module."), tuple(s)) for n, s, _ in parameters if not n.endswith("sigmas")]
    params = fit(from_torch_names({n: drawn(n, s) for n, s in names}, shapes), shapes, name)
    labels, stride = outputs["labels"], int(outputs["stride"])
    x = np.random.RandomState(0).rand(len(labels), 3, size, size).astype(np.float32).transpose(0, 2, 3, 1)
    x, fourier = 2 * x - 1 if centered else x, config.model.embedding == "fourier"
    condition = jnp.asarray(np.log(labels) if fourier else labels, jnp.float32)
    values = []
    assert isinstance(network, LinenNetwork)
    for dtype in ("float32", "bfloat16"):
        output = np.asarray(jax.jit(LinenNetwork(network.module, dtype).apply)(params, jnp.asarray(x), condition))
        output = output.transpose(0, 3, 1, 2)[:, :, ::stride, ::stride]
        output = output / labels.reshape(-1, 1, 1, 1) if fourier else output
        values.append(f"{dtype} {np.abs(output - outputs['out']).max() / np.abs(outputs['out']).max():.1e}")
    return values


def main() -> None:
    """Check every configuration of the outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("names", type=Path)
    args = parser.parse_args()
    names = json.loads(gzip.decompress(args.names.read_bytes()))
    with np.load(args.outputs) as file:
        for name in sorted({key.rsplit("/", 1)[0] for key in file.files}):
            outputs = {key.rsplit("/", 1)[1]: file[key] for key in file.files if key.rsplit("/", 1)[0] == name}
            print(f"{name:36}", *errors(name, names[name], outputs), flush=True)


if __name__ == "__main__":
    sys.exit(run_script("full_size", main))
