"""The diffusions of configurations: for each name an SDE, and the chains that converge to it."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from score_sde.chains import BETAS, DDPM, NCSN, SIGMAS, Chain
from score_sde.config import build
from score_sde.errors import UserError
from score_sde.fields import Settings
from score_sde.outside.parts import Registry
from score_sde.processes import Process
from score_sde.sdes import EDM, SDE, VDM, VE, VP, Cosine, RectifiedFlow, Sigmoid, SubVP
from score_sde.sdes.contract import check_process

#: The only schedule without a chain.
CONTINUOUS = "continuous"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """An SDE and its chains."""

    sde: Any  # a type of SDEs, or a part of the user's own
    # From a schedule, the number of levels and the SDE to a chain that converges to the SDE.
    chain: Callable[[str, int, Any], Chain] | None = None
    schedules: Collection[str] = ()  # the names of these chains
    own: str = CONTINUOUS  # the schedule whose chain visits the SDE's own marginals
    # Whether data stay as they are while noise is added, from ``sigma_min`` on; else they shrink, and a chain begins
    # with data without noise.
    keeps_data: bool = False
    early_std: Callable[[Any, float], float] | None = None  # std at an early time, about, from the fields


def _ddpm(name: str, n: int, sde: VP) -> Chain:
    betas = BETAS[name](n, sde.beta_min / n, sde.beta_max / n)
    if not float(betas.max()) < 1.0:
        raise UserError(
            f"With config.parameterization.num_scales={n} levels a step of the {name} chain has variance "
            f"{float(betas.max()):g}; expected less than 1, so more than config.sde.beta_max levels."
        )
    return DDPM(betas=betas)


def _early(fields: Any, t: float) -> float:
    return math.sqrt(fields.beta_min * t)


def _first(fields: Any, t: float) -> float:
    del t
    return fields.sigma_min


def _ncsn(name: str, n: int, sde: VE) -> Chain:
    return NCSN(sigmas=SIGMAS[name](n, sde.sigma_min, sde.sigma_max))


#: Diffusions by the names of ``config.sde.name``.
DIFFUSIONS: Mapping[str, Diffusion] = Registry(
    "sde.name",
    {
        "vp": Diffusion(sde=VP, schedules=BETAS, chain=_ddpm, own="linear", early_std=_early),
        "subvp": Diffusion(sde=SubVP, early_std=lambda fields, t: fields.beta_min * t),
        "ve": Diffusion(sde=VE, schedules=SIGMAS, chain=_ncsn, own="geometric", keeps_data=True, early_std=_first),
        "vdm": Diffusion(sde=VDM),
        "rectified_flow": Diffusion(sde=RectifiedFlow),
        "cosine": Diffusion(sde=Cosine),
        "sigmoid": Diffusion(sde=Sigmoid),
        "edm": Diffusion(sde=EDM, keeps_data=True),
    },
    check=check_process,
    adopt=lambda part: Diffusion(sde=part),
)


def on_chain(config: Settings) -> bool:
    """Whether the schedule names a chain, be it one of this SDE or not."""
    return config.sde.schedule in {*BETAS, *SIGMAS}


def make_sde(config: Settings) -> SDE:
    """The forward process that the configuration names.

    Raises:
        UserError: For numbers that the process does not allow, by the names of their fields.
    """
    try:
        return build(DIFFUSIONS[config.sde.name].sde, config.sde)
    except UserError as error:
        raise UserError(re.sub(r"\b((beta|sigma|log_snr)_(min|max)|end) is", r"config.sde.\g<0>", str(error))) from None


def make_process(config: Settings, sde: SDE) -> Process:
    """The SDE, or the chain of ``parameterization.num_scales`` levels that ``sde.schedule`` names.

    Raises:
        UserError: For a schedule whose chain does not converge to the SDE.
    """
    name, diffusion = config.sde.schedule, DIFFUSIONS[config.sde.name]
    if not on_chain(config):
        return sde
    if diffusion.chain is None or name not in diffusion.schedules:
        raise UserError(
            f"config.sde.schedule is {name}, and config.sde.name is {config.sde.name}; expected "
            f"{', '.join([CONTINUOUS, *diffusion.schedules])}."
        )
    return diffusion.chain(name, config.parameterization.num_scales, sde)
