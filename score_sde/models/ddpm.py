"""The U-Net of Ho et al. 2020 (arXiv 2006.11239): the same trunk, with convolutions between levels."""

from score_sde.models.ncsnpp import NCSNpp


class DDPM(NCSNpp):
    """The DDPM U-Net as Song et al. 2021 ship it; with ``attention_every_block``, the original of Ho et al.

    Attributes: as in :class:`NCSNpp`, with other defaults.
    """

    num_blocks: int = 2
    resblock_type: str = "ddpm"
    skip_rescale: bool = False
    min_group_channels: int = 1
