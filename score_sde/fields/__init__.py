"""Every field of a configuration, described once: its default, its type, the values that mean anything, its meaning.

Each group is a frozen dataclass with a line per field. From these lines come the default configuration
(``score_sde.defaults``), the reading of overrides, and every check of a single field with its message. Nothing here
needs a library.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from score_sde.fields.diffusion import Diffusion, Mesh, Parameterization, Top
from score_sde.fields.kinds import Kind
from score_sde.fields.measuring import Evaluation, Likelihood, Pareto, Plan, Sampling
from score_sde.fields.model import Data, Model
from score_sde.fields.training import Dequantizer, Objective, Optim, Training

#: The groups under their names in a configuration; the fields of the first one stand at its top.
GROUPS: Mapping[str, type] = MappingProxyType(
    {
        "": Top,
        "mesh": Mesh,
        "sde": Diffusion,
        "parameterization": Parameterization,
        "model": Model,
        "data": Data,
        "objective": Objective,
        "optim": Optim,
        "training": Training,
        "dequantizer": Dequantizer,
        "sampling": Sampling,
        "pareto": Pareto,
        "plan": Plan,
        "likelihood": Likelihood,
        "evaluation": Evaluation,
    }
)


def _described() -> dict[str, Kind]:
    return {
        f"{group}.{field.name}".lstrip("."): field.metadata["kind"]
        for group, cls in GROUPS.items()
        for field in dataclasses.fields(cls)
    }


#: Every field under its dotted name.
FIELDS: Mapping[str, Kind] = MappingProxyType(_described())

__all__ = ["FIELDS", "GROUPS", "Kind"]
