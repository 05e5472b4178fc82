"""A trained model from where it lies: a folder, a working directory, a published checkpoint, or the package."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from score_sde.checkpointing import newest_config
from score_sde.config import from_file, from_record
from score_sde.data import DataRecord
from score_sde.errors import UserError, nearest
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import read_bytes
from score_sde.interop.checkpoints import import_checkpoint
from score_sde.models.adapters import as_network
from score_sde.modes.folder import CARD, is_folder, read_records
from score_sde.modes.record import MODEL, recorded_data
from score_sde.modes.workdir import (
    data_info,
    experiment_for,
    experiment_of,
    has_checkpoint,
    measured_standardization,
    trained_state,
)
from score_sde.notebook.model import Model
from score_sde.paths import config_file, place, typed
from score_sde.typing import Network

PRETRAINED = Path(__file__).parents[1] / "pretrained"


def load(where: str | Path, *, network: Any = None, config: str | Path | None = None) -> Model:
    """The model in a folder, in a working directory or in a published checkpoint, or one that comes with the package.

    Args:
        where: A folder of :meth:`Model.save` or ``--mode=export --out``; a working directory; a checkpoint of
            score_sde, score_sde_pytorch, score_flow or ncsnv2, or a safetensors file of this package; or the name of a
            pretrained model. Nothing in any of them is executed.
        network: The network, for a model that was trained with one of your own.
        config: The configuration of a checkpoint, which has none in it: a file or a name such as
            ``"vp/cifar10_ddpmpp_continuous"``.

    Raises:
        UserError: If there is no model, or a damaged one; with the nearest name of a pretrained model.
    """
    own = None if network is None else as_network(network)
    names = pretrained()
    if isinstance(where, str) and where in names:
        return _from_folder(names[where], own)
    path = place(typed(str(where), "where", bucket=True))
    if has_checkpoint(path):
        return _from_run(path, own)
    if is_folder(path):
        return _from_folder(path, own)
    if path.is_file():
        return _from_checkpoint(path, config, own)
    if path.is_dir():
        raise UserError(f"{path} holds no model: neither checkpoints of a run nor {MODEL}.")
    raise UserError(
        f"There is no model {where}: no file or folder of this name, and none that comes with the package."
        f"{nearest(str(where), names)} Pretrained: {', '.join(names)}."
    )


def pretrained() -> dict[str, Path]:
    """The folders of the models that come with the package, by their names."""
    return {path.parent.name: path.parent for path in sorted(PRETRAINED.glob(f"*/{MODEL}"))}


def _from_run(workdir: Path, network: Network | None) -> Model:
    settings = Settings.of(from_record(newest_config(workdir) or {}, f"the record of the run in {workdir}"))
    experiment = experiment_of(settings, workdir, "sample", network=network)
    data = recorded_data(workdir) or DataRecord.of(
        data_info(settings), {}, standardization=experiment.quantization.standardization
    )
    return Model.of(experiment, trained_state(experiment, workdir), data, place=workdir)


def _from_folder(folder: Path, network: Network | None) -> Model:
    settings, data = read_records(folder)
    card = read_bytes(folder / CARD)
    text = None if card is None else card.decode(errors="replace")
    experiment = experiment_for(settings, data.info, "sample", data.standardization, network=network)
    return _imported(folder / MODEL, experiment, data, text)


def _from_checkpoint(path: Path, config: str | Path | None, network: Network | None) -> Model:
    if config is None:
        raise UserError(
            f"{path} is a file of parameters, which does not say of which network; give config=, a file or a name such "
            "as 'vp/cifar10_ddpmpp_continuous'."
        )
    settings = Settings.of(from_file(config_file(str(config))))
    info = data_info(settings)
    experiment = experiment_for(settings, info, "sample", measured_standardization(settings, info), network=network)
    data = DataRecord.of(info, {}, standardization=experiment.quantization.standardization)
    return _imported(path, experiment, data, None)


def _imported(path: Path, experiment: Experiment, data: DataRecord, card: str | None) -> Model:
    found = import_checkpoint(path, experiment.network, experiment.event_shape)
    params, trained = jax.tree.map(jnp.asarray, (found.ema_params, found.params))
    return Model(experiment=experiment, params=params, trained=trained, step=found.step, data=data, card=card)
