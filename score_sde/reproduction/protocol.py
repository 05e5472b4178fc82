"""The protocol of a measurement, and its differences from the row's own."""

from collections.abc import Iterable

from score_sde.config import changed_fields
from score_sde.fields import Settings
from score_sde.reproduction.rows import QUANTITIES, Row

_MODEL = ("ema_width", "sde", "parameterization", "model", "data")
_TRAINED = ("objective", "optim", "training")
_OF_LOOPS = (
    *("steps_per_dispatch", "accumulate", "log_every", "eval_every", "checkpoint_every", "sample_every"),
    *("keep_checkpoints", "keep_every", "keep_best"),
)
_DRAWS = ("seed", "sampling.seed", "sampling.first")
# Fields for the place, speed and random draw of a measurement, and for other measurements beside it. They may differ:
# no tolerance is smaller than the spread over draws.
_FREE = {
    *("data.data_dir", "data.shape", "data.workers", "data.prefetch", "optim.ema_widths", "optim.ema_snapshot_every"),
    *(f"{group}.{name}" for group in ("training", "dequantizer") for name in _OF_LOOPS),
    *(*_DRAWS, "sampling.batch_size", "likelihood.batch_size", "likelihood.budget_examples"),
    *("likelihood.noise_levels", "likelihood.num_weights", "likelihood.chain_terms"),
    *(f"evaluation.{name}" for name in ("checkpoints", "best_by", "likelihood", "weights", "reference")),
    "evaluation.keep_features",
}


def _groups(row: Row) -> tuple[str, ...]:
    """The groups of fields read by a row."""
    flow = row.what.startswith(("nll", "bound"))
    groups = (*_MODEL, *(("likelihood",) if flow else ("sampling", "evaluation")))
    if row.what.endswith("variational"):
        groups += ("optim", "dequantizer")
    return groups + _TRAINED if row.checkpoint is None else groups


def overridden(row: Row, own: Settings, used: Settings) -> list[str]:
    """The decisive fields that differ from the row's own, as ``name: own -> used``."""
    free = _FREE | ({"likelihood.bound_times"} if row.what.startswith("nll") else set())
    return changed_fields(own.to_dict(), used, groups=_groups(row), free=free)


def protocol(row: Row, own: Settings, used: Settings) -> str:
    """The protocol of a measurement in one line: the row's settings, with the used values where they differ.

    >>> from score_sde.config import from_file, with_overrides
    >>> from score_sde.paths import config_file
    >>> from score_sde.reproduction.rows import ROWS
    >>> row = ROWS["digits/vp/fid"]
    >>> own = with_overrides(from_file(config_file(row.config)), row.settings)
    >>> used = with_overrides(from_file(config_file(row.config)), [*row.settings, "sampling.num_steps=8", "seed=1"])
    >>> protocol(row, own, used).split("dpm_solver_2m, ")[1], overridden(row, own, used)
    ('sampling.num_steps=8, sampling.grid=log_snr, seed=1', ['sampling.num_steps: 24 -> 8'])
    """
    changed = dict(_assignments(changed_fields(own.to_dict(), used, groups=("seed", *_groups(row)))))
    settings = []
    for setting in row.settings:
        name, _, value = setting.partition("=")
        settings.append(f"{name}={changed.pop(name, value)}")
    told = {*_DRAWS, *dict(_assignments(overridden(row, own, used)))}
    settings += [f"{name}={value}" for name, value in changed.items() if name in told]
    return f"{QUANTITIES[row.what]}; {', '.join(settings)}"


def _assignments(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Names and new values from lines ``name: old -> new``."""
    for line in lines:
        name, _, values = line.partition(": ")
        yield name, values.rpartition(" -> ")[2]
