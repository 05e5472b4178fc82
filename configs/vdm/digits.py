"""Variational diffusion on scikit-learn's handwritten digits (8x8, 17 gray levels): minutes on a laptop's CPU.

python -m score_sde --config=configs/vdm/digits.py --workdir=runs/vdm_digits --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The network and the run of ``vp/digits_ddpmpp.py``, trained for the bound of the gray levels themselves."""
    config = from_file(Path(__file__).parents[1] / "vp" / "digits_ddpmpp.py")
    config.sde.name = "vdm"
    # Seventeen levels lie 15 times as far apart as 256: a sixth of a bin is reached at a log-SNR lower by 2 log 15.
    config.sde.log_snr_max = 7.9
    config.parameterization.output = "levels"
    config.objective.weighting = "likelihood"
    config.objective.levels = "midpoints"

    config.likelihood.dequantization = "truncated_normal"
    return config
