"""The settings of :func:`score_sde.fit`: what suits data of a shape, by the fields of configurations."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from score_sde.cautions import scale_of
from score_sde.data import ArraySource
from score_sde.diffusions import DIFFUSIONS
from score_sde.errors import UserError
from score_sde.fields import FIELDS, Settings
from score_sde.fields.settings import wrong_names
from score_sde.processes import Process

BATCH = 128
_LOWEST = 4  # least side of the smallest feature maps
_MOST_HALVINGS = 2
_EXACT = 32  # values of an example up to which the trace of a likelihood is exact

#: Intervals and rates depend on neither the number of steps nor the data, so that a directory can be trained further.
_TRAINING = {
    "optim.lr": 1e-3,
    "optim.warmup": 100,
    "optim.ema_rate": 0.999,
    "optim.ema_warmup": True,
    "objective.times": "low_discrepancy",
    "training.log_every": 50,
    "training.eval_every": 500,
    "training.checkpoint_every": 500,
}
#: The preconditioning keeps inputs and targets at unit scale under every process (Karras et al. 2022).
_PARAMETERIZATION = {"parameterization.output": "edm"}
_SAMPLING = {"sampling.predictor": "dpm_solver_2m", "sampling.grid": "log_snr", "sampling.num_steps": 50}
_LIKELIHOOD = {"likelihood.tolerance": 1e-4}


def settings_of(
    train: ArraySource, process: Process | str, *, steps: int, seed: int, labels: bool, changes: Mapping[str, Any]
) -> Settings:
    """The settings for a training split; ``changes`` are values of fields by their dotted names.

    Raises:
        UserError: For a process that no configuration describes, and for unknown fields and wrong values.
    """
    info = train.info
    chosen = {
        "seed": seed,
        "data.name": info.name,
        "conditioning.classes": labels,
        "training.num_steps": steps,
        "training.batch_size": _batch_size(len(train)),
        **_TRAINING,
        **_PARAMETERIZATION,
        **_process(process),
        **_network(info.shape),
        **_SAMPLING,
        **_LIKELIHOOD,
        "likelihood.num_probes": 0 if int(np.prod(info.shape)) <= _EXACT else 1,
    }
    if info.num_grey_levels is None:
        chosen |= {"data.standardize": "columns", "parameterization.data_std": 1.0}
    else:
        chosen["parameterization.data_std"] = max(round(scale_of(train, centered=True).overall_std, 3), 1e-3)
    unknown = {name: value for name, value in changes.items() if name not in FIELDS}
    if unknown:
        raise UserError(wrong_names(unknown)[0])
    return Settings().with_fields(chosen | dict(changes))


def _batch_size(count: int) -> int:
    """As many examples as there are, up to 128, rounded to a multiple of the devices."""
    devices = jax.device_count()
    return max(min(BATCH, count) // devices, 1) * devices


def _process(process: Process | str) -> dict[str, Any]:
    """The fields of an SDE, given as an object or by its name in configurations."""
    if isinstance(process, str):
        return {"sde.name": process}
    name = next((name for name, known in DIFFUSIONS.items() if type(process) is known.sde), None)
    if name is None:
        raise UserError(
            f"process is a {type(process).__name__}; expected "
            f"{', '.join(known.sde.__name__ for known in DIFFUSIONS.values())} with its numbers, or the name of one. "
            "Of your own it is a name too, 'module:name', which the records of the model can hold (docs/own_parts.md)."
        )
    numbers = {key.removeprefix("sde."): key for key in FIELDS if key.startswith("sde.")}
    fields = {key: float(getattr(process, own)) for own, key in numbers.items() if hasattr(process, own)}
    # Data that keep their scale have little noise left where those that shrink have as much as the data.
    return {"sde.name": name, **fields, **({"sampling.t_min": 1e-5} if DIFFUSIONS[name].keeps_data else {})}


def _network(shape: tuple[int, ...]) -> dict[str, Any]:
    """A residual perceptron for vectors, a small DDPM++ for all that has places."""
    if len(shape) == 1:
        return {"model.name": "mlp", "model.features": 128, "model.num_blocks": 3, "model.dropout": 0.0}
    sides, halvings = shape[:-1], 0
    while halvings < _MOST_HALVINGS and all(
        side % 2 ** (halvings + 1) == 0 and side // 2 ** (halvings + 1) >= _LOWEST for side in sides
    ):
        halvings += 1
    lowest = sides[0] // 2**halvings
    return {
        "model.name": "ncsnpp",
        "model.features": 32,
        "model.channel_multipliers": (1, 2, 2)[: halvings + 1],
        "model.num_blocks": 1,
        "model.attention_resolutions": (lowest,) if lowest <= 16 else (),
        "model.dropout": 0.0,
    }
