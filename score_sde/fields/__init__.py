"""Every field of a configuration, described once: its default, type, valid values and meaning.

Each group is a frozen dataclass with a line per field: in ``diffusion.py`` the devices, ``sde`` and
``parameterization``; in ``model.py`` ``model`` and ``data``; in ``training.py`` ``objective``, ``optim``, ``training``,
``dequantizer`` and ``classifier``; in ``measuring.py`` ``sampling``, ``pareto``, ``plan``, ``likelihood``,
``evaluation`` and ``export``; in ``conditioning.py`` ``conditioning``. The default configuration, the parsing of
overrides (both in ``config.py``), and every check of a single field with its message follow from these lines. No
library is needed.
"""

from score_sde.fields.kinds import Kind
from score_sde.fields.settings import DEFAULTS, FIELDS, GROUPS, Settings

__all__ = ["DEFAULTS", "FIELDS", "GROUPS", "Kind", "Settings"]
