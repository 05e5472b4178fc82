"""A trained model from where it lies: a folder, a working directory, a published checkpoint, or the package."""

from pathlib import Path
from typing import Any

from score_sde.config import from_file
from score_sde.fields import Settings
from score_sde.models.adapters.own import name_of
from score_sde.modes.models import find_model, located
from score_sde.notebook.model import Model
from score_sde.paths import config_file


def load(where: str | Path, *, network: Any = None, config: str | Path | None = None, own_parts: bool = False) -> Model:
    """The model in a folder, in a working directory or in a published checkpoint, or one that comes with the package.

    Args:
        where: A folder of :meth:`Model.save` or ``--mode=export --out``; a working directory; a checkpoint of
            score_sde, score_sde_pytorch, score_flow or ncsnv2, or a safetensors file of this package; or the name of a
            pretrained model. Nothing in any of them is executed.
        network: The network, for a model that was trained with one of your own.
        config: The configuration of a checkpoint, which has none in it: a file or a name such as
            ``"vp/cifar10_ddpmpp_continuous"``.
        own_parts: Import the parts outside this package that the configuration of a folder names, ``module:name``.

    Raises:
        UserError: If there is no model, or a damaged one; with the nearest name of a pretrained model.
    """
    settings = None if config is None else Settings.of(from_file(config_file(str(config))))
    found = find_model(located(str(where)), config=settings, network=network, own_parts=own_parts)
    return Model(**{**found._asdict(), "given": found.given or ("" if network is None else name_of(network))})
