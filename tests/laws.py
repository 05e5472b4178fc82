"""The table of members that the laws are checked on: a new one is added here and inherits the suite."""

import jax
import jax.numpy as jnp

from score_sde import solvers
from score_sde.parameterization import PARAMETERIZATIONS
from score_sde.sdes import EDM, VDM, VE, VP, Cosine, GaussianPath, LinearSDE, RectifiedFlow, Sigmoid, SubVP

SDES = {
    "vp": VP(),
    "vp_narrow": VP(beta_min=0.5, beta_max=8.0),
    "subvp": SubVP(),
    "ve": VE(),
    "vdm": VDM(),
    "rectified_flow": RectifiedFlow(end=1e-2),
    "trigonometric": Cosine(end=1e-2),
    "sigmoid": Sigmoid(end=1e-2),
    "edm": EDM(sigma_max=10.0),
    "ve_small": VE(sigma_min=0.02, sigma_max=5.0),
    "cosine": GaussianPath(lambda t: jnp.cos(1.5 * t), lambda t: jnp.sin(1.5 * t), prior_std=1.0),
    "linear": LinearSDE.from_coefficients(lambda t: -2.0 - 3.0 * t, lambda t: jnp.sqrt(2.0 + jnp.cos(6.0 * t))),
}
#: Those whose output has the data's shape; logits of levels have laws of their own, in ``test_level_prediction.py``.
PARAMETERIZATIONS = {name: kind for name, kind in PARAMETERIZATIONS.items() if not kind.of_levels}
#: With the nominal order. UniPC corrects every step but the last, which raises its order by one.
ORDERS = {
    **{"euler": 1, "heun": 2, "edm_heun": 2},
    **{"dpm_solver_1": 1, "dpm_solver_2s": 2, "dpm_solver_2m": 2, "dpm_solver_3m": 3},
    **{"unipc_1": 2, "unipc_2": 3, "unipc_3": 4},
}
DETERMINISTIC = {name: (make(), ORDERS[name]) for name, make in solvers.DETERMINISTIC.items()}
#: Those that move the sample by the reverse SDE at full noise.
STOCHASTIC = {
    name: make(eta=1.0) if name == "ddim" else make() for name, make in solvers.STOCHASTIC.items() if name != "none"
}


def float64():
    """Run a law in double precision."""
    return jax.enable_x64(True)
