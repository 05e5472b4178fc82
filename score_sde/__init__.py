"""Score-based generative modeling with stochastic differential equations, in JAX.

The public names below are loaded on first use, so that ``import score_sde`` and ``--help`` cost nothing. The
import protects the process from wrong programs of XLA (:mod:`score_sde.compiler`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from score_sde.compiler import protect

if TYPE_CHECKING:
    from score_sde import likelihood, objectives, parameterization, sampling, sdes, solvers
    from score_sde.notebook import Model, fit, load
    from score_sde.sdes import VDM, VE, VP, SubVP

__version__ = "0.2.0"

__all__ = [
    "VDM",
    "VE",
    "VP",
    "Model",
    "SubVP",
    "__version__",
    "fit",
    "likelihood",
    "load",
    "objectives",
    "parameterization",
    "sampling",
    "sdes",
    "solvers",
]

#: The modules of names that are no modules.
_PLACES = {**dict.fromkeys(("VDM", "VE", "VP", "SubVP"), "sdes"), **dict.fromkeys(("Model", "fit", "load"), "notebook")}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"score_sde.{_PLACES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"score_sde.{name}")
    raise AttributeError(f"module 'score_sde' has no attribute '{name}'")


protect()  # before JAX starts its backend
