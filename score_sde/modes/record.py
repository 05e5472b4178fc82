"""The record of a run, ``config.json`` and ``data.json``, and the directories that may hold its results."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from score_sde.checkpointing import Check, Checkpoints, edited_record, newest_config
from score_sde.config import changed_fields, leaves
from score_sde.data import DataRecord
from score_sde.data.identity import PLACE_FIELDS
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS, FIELDS, Settings
from score_sde.fields.lines import Open
from score_sde.files import Bucket, Unreadable, atomic_write_json, check_writable, read_json, reason_of
from score_sde.training.optim import SCHEDULES

#: The file of parameters of a model that was exported.
MODEL = "model.safetensors"
#: The file that says which network of a program the parameters are of, where the configuration names none.
GIVEN = "given.json"
#: Groups of fields that decide the meaning of the parameters of a run.
MEANING = ("sde", "parameterization", "model", "data", "conditioning")
#: Groups of fields that decide the training; they may not change under an existing run.
TRAINED = ("seed", *MEANING, "objective", "optim", "training")
#: Groups of fields by mode. Other modes read only ``MEANING``, and take the rest from the record of the run.
READS = {
    **dict.fromkeys(("train", "import"), TRAINED),
    "train_dequantizer": ("seed", *MEANING, "optim"),
    "eval": (*MEANING, "objective"),
}
_FREE = (
    "training.num_steps",
    *(f"training.{name}" for name in ("accumulate", "eval_every", "sample_every", "trackers", "options")),
    *(f"training.keep_{what}" for what in ("checkpoints", "every", "best")),
    # Data are identified by content, not by path.
    *(f"data.{name}" for name in PLACE_FIELDS),
    "optim.ema_snapshot_every",
    # The others are read by modes that take samples.
    *(f"conditioning.{name}" for name in DEFAULTS.conditioning if name not in ("classes", "null_probability")),
)
#: Folders of a run whose files its modes create, move and remove.
OWN = (
    *("checkpoints", "averages", "classifier", "damaged_checkpoints", "dequantizer", "earlier", "progress"),
    "tensorboard",
)
_PATHS = ("npz", "folder", "arrayrecord")  # kinds of data named by their path


def claim(config: Settings, workdir: Path, data: DataRecord) -> dict[str, Any]:
    """Record configuration and data in a new working directory, or check them against an existing record.

    The records are returned by file name.

    Raises:
        UserError: If the run was trained with other settings or on other data, or the directory cannot be written.
    """
    recorded, known = newest_config(workdir), recorded_data(workdir)
    if recorded is not None:
        check_same(config, recorded, workdir, "train")
        _check_same_data(recorded, known, data, workdir)
    check_writable(workdir)
    splits = {} if known is None else known.splits
    merged = data._replace(splits={**splits, **data.splits})
    return write_records(config, "training", workdir, {"data.json": merged.to_json()})


def write_records(config: Settings, group: str, directory: Path, records: Mapping[str, Any]) -> dict[str, Any]:
    """Write the records of a loop with those settings, and its configuration; return all of them by file name.

    If more steps were trained than configured, the record keeps the larger number.
    """
    fields, num_steps = config.to_dict(), config[group].num_steps
    if newest_step(directory) > num_steps:
        fields[group]["num_steps"] = leaves(newest_config(directory) or {}).get(f"{group}.num_steps", num_steps)
    written = {**records, "config.json": fields}
    for name, record in written.items():
        atomic_write_json(directory / name, record)
    return written


def newest_step(workdir: Path) -> int:
    """The step of the newest complete checkpoint of a run; 0 without any."""
    return max(Checkpoints(workdir).steps, default=0)


def recorded_data(workdir: Path) -> DataRecord | None:
    """The record of a run's data; ``None`` without a run, or for a run of a version without such records.

    Raises:
        UserError: If the record is damaged.
    """
    path, remedy = workdir / "data.json", "remove it, and the next training writes it anew"
    found = read_json(path, remedy=remedy)
    try:
        return None if found is None else DataRecord.from_json(found)
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(path, reason_of(error), remedy) from error


def given_name(place: Path) -> str:
    """The name of the network that a program gave to the training of a model; empty for the network of a configuration.

    Raises:
        UserError: If the record is damaged.
    """
    found = read_json(place / GIVEN, remedy="remove it, and give the network to score_sde.load") or {}
    return str(found.get("network", ""))


def check_given(place: Path, network: Any) -> None:
    """Refuse a model without the network that it was trained with, which only a program has.

    Raises:
        UserError: If there is none.
    """
    if network is None and (name := given_name(place)):
        raise UserError(
            f"The model in {place} was trained by score_sde.fit(network=...) with {name}, which its configuration does "
            "not name; expected the same network=... in score_sde.load or score_sde.fit. Only a network that a "
            "configuration names, config.model.name=module:name, is found without a program."
        )


def as_recorded(config: Settings, workdir: Path, mode: str) -> Settings:
    """The configuration of a mode on a run: training fields that the mode does not read come from the run.

    Without a run, the given configuration is returned.

    Raises:
        UserError: If fields that the mode reads differ from the run's; the message names all of them.
    """
    recorded = newest_config(workdir)
    if recorded is None:
        return config
    check_same(config, recorded, workdir, mode)
    unread, found = set(TRAINED) - {"seed", *READS.get(mode, MEANING)}, leaves(recorded)
    own = {name: value for name, value in {**leaves(DEFAULTS), **found}.items() if name.split(".")[0] in unread}
    for group in unread & {group for group, part in config.items() if isinstance(part, Open)}:
        config = config.with_(group, options={})  # the run's stand in its record
    return config.with_fields({name: value for name, value in own.items() if name in FIELDS})


def check_same(config: Settings, recorded: Mapping[str, Any], workdir: Path, mode: str) -> None:
    """Refuse a configuration that differs from a run's in fields that a mode reads."""
    groups = READS.get(mode, MEANING)
    free = _free(groups, config.optim.schedule)
    if changed := changed_fields(recorded, config, groups=groups, free=free):
        sentence = f"The configuration differs from that of the run in {workdir}"
        edited = edited_record(workdir, groups=groups, free=free)
        raise _unlike(sentence, changed, edited or "Set these fields back")


def of_this_run(workdir: Path) -> Check:
    """A check that checkpoints of a run were saved under its recorded configuration."""
    recorded = newest_config(workdir)

    def check(path: Path, saved: Mapping[str, Any]) -> None:
        if recorded is None:
            return
        free = _free(TRAINED, leaves(recorded).get("optim.schedule", "constant"))
        if changed := changed_fields(saved, recorded, groups=TRAINED, free=free):
            sentence = f"The checkpoint {path} was saved under another configuration than that of the run"
            edited = edited_record(workdir, groups=TRAINED, free=free)
            raise _unlike(sentence, changed, edited or "Move it elsewhere if it is of another run")

    return check


def _free(groups: Collection[str], schedule: str) -> set[str]:
    """Fields of some groups that may differ from the record of a run."""
    if groups != TRAINED:
        return {*_FREE, "data.random_flip"}
    return set(_FREE) - ({"training.num_steps"} if SCHEDULES[schedule].of_length else set())


def _check_same_data(recorded: Mapping[str, Any], known: DataRecord | None, data: DataRecord, workdir: Path) -> None:
    """Refuse data other than the run's; if the run has no record of its data, refuse data of another name."""
    advice = "Give the data that the run was trained on, wherever they lie (config.data.name, config.data.data_dir)"
    if known is not None:
        changed = known.differences(data)
    else:
        old, new = str(leaves(recorded).get("data.name", data.name)), data.name
        changed = [] if _kind(old) == _kind(new) else [f"data.name: {old} -> {new}"]
    if changed:
        raise _unlike(f"The data differ from the data of the run in {workdir}", changed, advice)


def _kind(name: str) -> str:
    kind = name.partition(":")[0]
    return kind if kind in _PATHS else name


def _unlike(sentence: str, changed: list[str], advice: str) -> UserError:
    lines = "\n  ".join([f"{sentence}:", *changed])
    return UserError(f"{lines}\n{advice}, or give another --workdir for a new run.")


def is_run(directory: Path) -> bool:
    """Whether a directory holds the record or a checkpoint of a run, and not just a model that was handed on.

    An export that was killed leaves the parameters under a temporary name.
    """

    def has(name: str) -> bool:
        path = directory / name
        return path.is_file() if isinstance(path, Bucket) else os.path.isfile(path)

    exported = has(MODEL) or (not isinstance(directory, Bucket) and any(directory.glob(f".{MODEL}.*.tmp")))
    return (has("config.json") and not exported) or bool(Checkpoints(directory).steps)


def check_places(workdir: Path, out: Path | None) -> None:
    """Refuse a directory where results would be lost or mistaken for other results.

    Raises:
        UserError: If results would go into a private folder of a run, or into the directory of another run.
    """
    flag, place = ("--workdir", workdir) if out is None else ("--out", out)
    home, inside = _real(workdir), _real(place)
    own = {_real(home / name): home / name for name in OWN}  # a link may point to another disk
    for folder in (inside, *inside.parents, *place.absolute().parents):
        found = own.get(folder, folder)
        if folder in own or (folder.name in OWN and is_run(folder.parent)):
            raise UserError(
                f"{flag} is {place}, which is in {found.name}/ of the run in {found.parent}; modes of that run may "
                "remove what is there. Give a directory outside it."
            )
    if inside != home and is_run(inside):
        raise UserError(
            f"--out is {place}, the directory of another run than the one in {workdir}, whose page would show these "
            "results as its own. Give a directory that holds no run."
        )


def _real(path: Path) -> Path:
    return path if isinstance(path, Bucket) else Path(os.path.realpath(path))
