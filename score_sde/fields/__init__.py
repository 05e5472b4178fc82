"""Every field of a configuration, described once: its default, type, valid values and meaning.

Each group is a frozen dataclass with a line per field. The default configuration (``score_sde.defaults``), the parsing
of overrides, and every check of a single field with its message follow from these lines. No library is needed.
"""

from score_sde.fields.kinds import Kind
from score_sde.fields.settings import DEFAULTS, FIELDS, GROUPS, Settings

__all__ = ["DEFAULTS", "FIELDS", "GROUPS", "Kind", "Settings"]
