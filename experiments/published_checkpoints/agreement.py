"""Do imported checkpoints give the originals' outputs? One line per checkpoint.

    python experiments/published_checkpoints/agreement.py DIRECTORY

DIRECTORY holds ``index.json``, ``{NAME: {"config": {"model": ..., "data": ...}}}`` with the fields of the originals'
configurations, and for each name what the originals wrote: ``NAME.pth`` and ``NAME.npz`` (PyTorch, channels first), or
``NAME/checkpoint_*`` (possibly ``.xz``) and ``NAME/io.npz`` (Flax, channels last). The arrays are ``x``, ``labels`` and
the outputs ``out_ema`` and ``out_model`` or ``out_target``, for the averaged and the raw parameters.

Each checkpoint goes through ``--mode=import``, ``--mode=export`` and ``--mode=import`` again, as a user's would.
"""

import argparse
import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.cli import run_script
from score_sde.config import default_config
from score_sde.fields import Settings
from score_sde.models.adapters import LinenNetwork
from score_sde.modes.exchanging import run_export, run_import
from score_sde.modes.workdir import build_experiment, trained_state
from score_sde.state import TrainState

#: Fields of the originals' ``config.model`` whose names differ from ours.
RENAMED = {
    **{"nf": "features", "ch_mult": "channel_multipliers", "num_res_blocks": "num_blocks"},
    **{"attn_resolutions": "attention_resolutions", "resamp_with_conv": "resample_with_conv"},
    **{"embedding_type": "embedding", "nonlinearity": "activation"},
}


def our_config(original: dict[str, Any]) -> Settings:
    """Our configuration of the original's network."""
    config, data = default_config(), original["data"]
    config.data.shape, config.data.centered = (data["image_size"],) * 2 + (3,), data["centered"]
    for name, value in original["model"].items():
        if (ours := RENAMED.get(name, name)) in config.model:
            config.model[ours] = tuple(value) if isinstance(value, list) else value
    if original["model"]["name"] == "ddpm":
        config.model.embedding = "positional"  # whatever the field, which the original does not read then
    if not original["model"].get("conditional", True):
        config.model.embedding = "none"
    return Settings.of(config)


def relative_errors(config: Settings, model: dict[str, Any], state: TrainState, outputs: Any) -> dict[str, str]:
    """Largest deviation over the largest output, for raw and averaged parameters and both precisions."""
    network, errors = build_experiment(config).network, {}
    assert isinstance(network, LinenNetwork)
    torch, labels = "out_model" in outputs, np.asarray(outputs["labels"])
    x = outputs["x"].transpose(0, 2, 3, 1) if torch else outputs["x"]
    fourier = config.model.name == "ncsnpp" and config.model.embedding == "fourier"
    sigmas = np.geomspace(model["sigma_max"], model["sigma_min"], model["num_scales"])
    scale = (labels if fourier else sigmas[labels]) if model["scale_by_sigma"] else np.ones(len(labels))
    condition = np.log(labels) if fourier else labels
    for key, params in (("out_ema", state.ema_params), ("out_model" if torch else "out_target", state.params)):
        expected = outputs[key].transpose(0, 2, 3, 1) if torch else outputs[key]
        for dtype in ("float32", "bfloat16"):
            run = jax.jit(LinenNetwork(network.module, dtype).apply)
            output = np.asarray(run(params, jnp.asarray(x), jnp.asarray(condition, jnp.float32)))
            output = output / scale.reshape(-1, 1, 1, 1)
            errors[f"{key} {dtype}"] = f"{np.abs(output - expected).max() / np.abs(expected).max():.1e}"
    return errors


def check(config: Settings, model: dict[str, Any], checkpoint: Path, outputs: Any) -> dict[str, str]:
    """Import, compare, export, import again."""
    with tempfile.TemporaryDirectory() as scratch:
        if checkpoint.suffix == ".xz":
            plain = Path(scratch) / checkpoint.stem
            plain.write_bytes(lzma.decompress(checkpoint.read_bytes()))
            checkpoint = plain
        experiment, states = build_experiment(config), []
        for name in ("first", "second"):
            workdir = Path(scratch) / name
            run_import(config, workdir, "", checkpoint)
            states.append(trained_state(experiment, workdir))
            run_export(config, workdir, "")
            checkpoint = workdir / "model.safetensors"
    trees = [(state.step, state.params, state.ema_params) for state in states]
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), *trees)
    round_trip = "bit for bit" if all(jax.tree.leaves(same)) else "DIFFERS"
    return relative_errors(config, model, states[0], outputs) | {"round trip": round_trip}


def main() -> None:
    """Check every checkpoint of the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    for name, entry in json.loads((directory / "index.json").read_text()).items():
        torch_file = directory / f"{name}.pth"
        checkpoint = torch_file if torch_file.exists() else next((directory / name).glob("checkpoint_*"))
        with np.load(directory / (f"{name}.npz" if torch_file.exists() else f"{name}/io.npz")) as outputs:
            report = check(our_config(entry["config"]), entry["config"]["model"], checkpoint, dict(outputs))
        print(f"{name:30}", *(f"{key}: {value};" for key, value in report.items()), flush=True)


if __name__ == "__main__":
    sys.exit(run_script("agreement", main))
