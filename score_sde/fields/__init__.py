"""Every field of a configuration, described once: its default, its type, the values that mean anything, its meaning.

Each group is a frozen dataclass with a line per field. From these lines come the default configuration
(``score_sde.defaults``), the reading of overrides, and every check of a single field with its message. Nothing here
needs a library.
"""

from score_sde.fields.kinds import Kind
from score_sde.fields.settings import DEFAULTS, FIELDS, GROUPS, Settings

__all__ = ["DEFAULTS", "FIELDS", "GROUPS", "Kind", "Settings"]
