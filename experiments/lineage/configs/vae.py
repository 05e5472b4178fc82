"""Variational autoencoder (Kingma & Welling 2013): one layer of 16 latent variables, with a learned encoder.

python -m score_sde --config=experiments/lineage/configs/vae.py --workdir=runs/lineage/vae --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """As many parameters, steps and images as the others have."""
    config = from_file(Path(__file__).parent / "vp.py")
    config.objective.kind = "bound"
    config.model.name = "vae"
    config.model.latent_dim = 16
    config.model.widths = (256, 256)
    config.optim.lr = 1e-3
    return config
