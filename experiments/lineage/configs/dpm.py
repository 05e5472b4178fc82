"""Diffusion probabilistic model (Sohl-Dickstein et al. 2015): the variational bound, means and variances learned.

python -m score_sde --config=experiments/lineage/configs/dpm.py --workdir=runs/lineage/dpm --mode=demo

With --config.objective.hybrid=0.001 it is Improved DDPM (Nichol & Dhariwal 2021).
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The chain of DDPM under its bound."""
    config = from_file(Path(__file__).parent / "ddpm.py")
    config.objective.kind = "bound"
    config.parameterization.variances = "learned"
    return config
