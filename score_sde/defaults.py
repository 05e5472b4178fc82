"""The default configuration. Every field is described, with its default, in the files of ``score_sde/fields/``.

There ``diffusion.py`` has the devices, ``sde`` and ``parameterization``; ``model.py`` has ``model`` and ``data``;
``training.py`` has ``objective``, ``optim``, ``training`` and ``dequantizer``; ``measuring.py`` has ``sampling``,
``pareto``, ``plan``, ``likelihood`` and ``evaluation``; ``conditioning.py`` has ``conditioning``.
"""

from typing import TYPE_CHECKING, Any

from score_sde.fields import FIELDS, GROUPS

if TYPE_CHECKING:
    # The library types every field as a union of all kinds; ours are checked at run time, by Settings.of.
    class ConfigDict(Any):
        """A nested, typo-safe dictionary of fields."""

else:
    from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """Every field with its default; the defaults describe the continuous VP DDPM++ of Song et al."""
    config = ConfigDict()
    for group in filter(None, GROUPS):
        config[group] = ConfigDict()
    for name, kind in FIELDS.items():
        group, _, field = name.rpartition(".")
        (config[group] if group else config)[field] = kind.default
    return config.lock()
