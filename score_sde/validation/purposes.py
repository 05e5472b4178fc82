"""What a configuration is used for, by mode: only the fields that a use reads are checked."""

from collections.abc import Mapping
from typing import Literal, get_args

from score_sde.fields import Settings

#: The uses of a configuration.
Purpose = Literal["train", "sample", "restore", "pareto", "likelihood", "evaluate", "dequantize", "guide"]
PURPOSES: frozenset[Purpose] = frozenset(get_args(Purpose))

_OF_MODES: Mapping[str, frozenset[Purpose]] = {
    **{"train": frozenset({"train"}), "sample": frozenset({"sample"}), "pareto": frozenset({"pareto"})},
    "demo": frozenset({"train", "sample", "likelihood"}),
    "restore": frozenset({"sample", "restore"}),
    "classify": frozenset({"likelihood"}),
    **{"likelihood": frozenset({"likelihood"}), "train_dequantizer": frozenset({"dequantize"})},
    "train_classifier": frozenset({"guide"}),
}


def purposes_of(mode: str | None, config: Settings) -> frozenset[Purpose]:
    """The purposes for which a mode builds a configuration; all of them if no mode is named.

    >>> from score_sde.fields import DEFAULTS
    >>> sorted(purposes_of("eval", DEFAULTS)), sorted(purposes_of("export", DEFAULTS))
    (['evaluate'], [])
    """
    if mode is None:
        return PURPOSES
    if mode != "eval":
        return _OF_MODES.get(mode, frozenset())
    wanted: dict[Purpose, bool] = {"evaluate": True, "likelihood": config.evaluation.likelihood}
    wanted["sample"] = config.evaluation.num_samples > 0
    return frozenset(purpose for purpose, needed in wanted.items() if needed)
