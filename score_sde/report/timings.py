"""Duration and speed of training, from TensorBoard event files: ``metrics.jsonl`` holds no clock times."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from score_sde.files import Unreadable, read_bytes

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

_MAX_BYTES = 1 << 30  # of event files read at most


class Timings(NamedTuple):
    """Clock times of training.

    Attributes:
        seconds: Time from the first to the last event of every file, summed; excludes pauses between restarts and
            compilation before the first line.
        rates: ``(step, value)`` by name, for clock-based scalars.
    """

    seconds: float
    rates: dict[str, list[tuple[float, float]]]


def read_timings(directory: Path, names: tuple[str, ...] = ("images_per_second", "data_wait_fraction")) -> Timings:
    """The timings in a directory of event files; empty if it is missing or damaged.

    Args:
        directory: The directory of the event files.
        names: Scalars to read. If a step was trained twice, after a crash, the later value counts.
    """
    seconds, rates = 0.0, {name: {} for name in names}
    for path in sorted(directory.glob("events.*")) if directory.is_dir() else ():
        times = []
        for event in _events(path):
            times.append(event.wall_time)
            for value in event.summary.value:
                if value.tag in rates:
                    rates[value.tag][float(event.step)] = float(value.simple_value)
        seconds += times[-1] - times[0] if times else 0.0
    return Timings(seconds, {name: sorted(found.items()) for name, found in rates.items()})


def _events(path: Path) -> "Iterator[Event]":
    """The events of a record file: each a length, its checksum, the event, and its checksum."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

    try:
        data = read_bytes(path, limit=_MAX_BYTES) or b""
    except Unreadable:
        return
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + 16 + length > len(data):  # the last record is truncated
            return
        try:
            yield Event.FromString(data[start + 12 : start + 12 + length])
        except DecodeError:
            return
        start += 16 + length
