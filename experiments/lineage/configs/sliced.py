"""Sliced score matching (Song et al. 2019; Hyvärinen 2005): a score learned from its own divergence, without the noise.

python -m score_sde --config=experiments/lineage/configs/sliced.py --workdir=runs/lineage/sliced --mode=demo

With --config.objective.kind=implicit the divergence is exact, for 64 times the Jacobian-vector products.
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The VP run with another criterion, one direction per image in the divergence and none in the square."""
    config = from_file(Path(__file__).parent / "vp.py")
    config.objective.kind = "sliced_vr"
    return config
