"""Every field with its default: DDPM++ on CIFAR-10 under the continuous VP SDE (Song et al. 2021).

    python -m score_sde --config=configs/default.py --workdir=runs/cifar10 --mode=train

The fields and their meanings are in docs/fields.md.
"""

from score_sde.config import default_config as get_config

__all__ = ["get_config"]
