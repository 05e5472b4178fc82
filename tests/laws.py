"""The table of members that the laws are checked on: a new one is added here and inherits the suite."""

import jax

from score_sde import solvers
from score_sde.parameterization import PARAMETERIZATIONS
from score_sde.sdes import VE, VP, SubVP

SDES = {
    "vp": VP(),
    "vp_narrow": VP(beta_min=0.5, beta_max=8.0),
    "subvp": SubVP(),
    "ve": VE(),
    "ve_small": VE(sigma_min=0.02, sigma_max=5.0),
}
PARAMETERIZATIONS = dict(PARAMETERIZATIONS)
DETERMINISTIC = {"euler": (solvers.Euler(), 1), "heun": (solvers.Heun(), 2)}  # with the nominal order
STOCHASTIC = {"euler_maruyama": solvers.EulerMaruyama(), "reverse_diffusion": solvers.ReverseDiffusion()}


def float64():
    """Run a law in double precision."""
    return jax.enable_x64(True)
