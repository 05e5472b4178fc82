"""The output of a training run: a metrics file, TensorBoard events, and a progress bar.

``metrics.jsonl`` is part of the result: a resumed run leaves the same bytes as an uninterrupted one. It therefore
holds nothing that depends on the clock; timings go only to TensorBoard, and :func:`read_timings` finds them there.
"""

import contextlib
import json
import logging
import math
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat, TypeAlias

from score_sde.cluster import is_main
from score_sde.files import Growing, Unreadable, atomic_path, jsonable, parse_json_line, read_bytes, writing

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
    from tqdm import tqdm

log = logging.getLogger(__name__)

#: Metrics of a step, or rates, by name.
Numbers: TypeAlias = Mapping[str, SupportsFloat]

_WORK = 0.1  # seconds; faster parts of the work only look up earlier results
_MAX_BYTES = 1 << 30  # of event files read at most


class MetricWriter:
    """Appends metrics to ``workdir/metrics.jsonl`` and to TensorBoard files in ``workdir/tensorboard``.

    Of several processes of one run, only the first writes.

    A line reaches the operating system before :meth:`write` returns, so a killed process loses none, and a full disk
    raises here rather than in a background thread. In a bucket both files are written as a whole, as often as takes a
    small share of the time, and by :meth:`flush`, before a checkpoint is saved. Numbers are written as the shortest
    decimals that read back to the same bits.
    """

    def __init__(self, workdir: Path) -> None:
        """Write below ``workdir``; existing lines are kept, see :meth:`truncate`."""
        self._path = workdir / "metrics.jsonl"
        self._events_dir = workdir / "tensorboard"
        self._metrics: Growing | None = None  # opened with the first line
        self._events: Growing | None = None  # made with the first line
        self._purge_step: int | None = None

    def write(self, step: int, metrics: Numbers, *, timings: Numbers | None = None) -> None:
        """Record the metrics of a step, and timings (such as steps per second), which go only to TensorBoard."""
        if not is_main():
            return
        values = {name: float(value) for name, value in metrics.items()}
        line = json.dumps(jsonable({"step": int(step), **values}), allow_nan=False) + "\n"
        self._metrics = self._metrics or Growing(self._path)
        self._metrics.append(line.encode())
        with writing(self._events_dir):
            if self._events is None:
                self._events = self._new_events()
        values |= {name: float(value) for name, value in (timings or {}).items()}
        self._events.append(_record(step=int(step), summary=_summary(values)))
        self.flush(now=False)

    def flush(self, *, now: bool = True) -> None:
        """Write new data to a bucket: now, or when due."""
        for file in (self._metrics, self._events):
            if file is not None:
                file.publish(now=now)

    def close(self) -> None:
        """Nothing: every line is on file."""

    def truncate(self, step: int) -> None:
        """Remove the lines after ``step``, and a last line truncated by a crash.

        Call it before resuming from the checkpoint of ``step``; the following lines are then written again with the
        same bytes. TensorBoard hides its records after ``step``.
        """
        self._metrics = self._events = None
        if not is_main():
            return
        if self._events_dir.is_dir() and any(self._events_dir.iterdir()):
            self._purge_step = step + 1
        if (content := read_bytes(self._path, remedy="make it readable")) is None:
            return
        lines = [(line, parse_json_line(line)) for line in content.split(b"\n")]
        kept = b"".join(line + b"\n" for line, record in lines if record is not None and record["step"] <= step)
        if kept != content:
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(kept)

    def _new_events(self) -> Growing:
        """Start a new event file, with a name that TensorBoard recognizes."""
        from tensorboardX.proto import event_pb2

        self._events_dir.mkdir(parents=True, exist_ok=True)
        # A number distinguishes files of the same second.
        number = len(list(self._events_dir.glob("events.*")))
        events = Growing(
            self._events_dir / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{number:04d}"
        )
        records = _record(file_version="brain.Event:2")
        if self._purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # pyright: ignore[reportAttributeAccessIssue]
            records += _record(step=self._purge_step, session_log=start)
            self._purge_step = None
        events.append(records)
        return events


def _summary(values: Mapping[str, float]) -> Any:
    """Named numbers as a TensorBoard summary; non-finite ones cannot be drawn and are left out."""
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in finite.items()])


def _record(**fields: Any) -> bytes:
    """A TensorBoard event as a record of its file: a length, its checksum, the event, and its checksum."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
    from tensorboardX.record_writer import masked_crc32c

    event = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(event))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), event, struct.pack("<I", masked_crc32c(event))])


class Timings(NamedTuple):
    """Clock times of training."""

    # Time from the first to the last event of every file, summed; excludes pauses between restarts and compilation
    # before the first line.
    seconds: float
    rates: dict[str, list[tuple[float, float]]]  # ``(step, value)`` by name, for clock-based scalars


def read_timings(directory: Path) -> Timings:
    """The timings in a directory of event files; empty if it is missing or damaged.

    If a step was trained twice, after a crash, the later value counts.
    """
    seconds, rates = 0.0, {name: {} for name in ("images_per_second", "data_wait_fraction")}
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


def compiling(what: str) -> None:
    """Log that a program compiles now, which may take long without any other output."""
    log.info("Compiling %s; the first time this takes a minute or more.", what)


class ProgressBar(contextlib.AbstractContextManager["ProgressBar"]):
    """A bar on a terminal; elsewhere, a line in the log every ``interval`` seconds at most.

    Both show the progress, the loss if there is one, the rate and the remaining time. Rate and remaining time exclude
    the first real part of the work, which includes compilation.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        description: str = "training",
        unit: str = "",
        interval: float = 30.0,
    ) -> None:
        """A bar from ``initial`` to ``total``.

        It begins at ``initial`` after a resume. The unit is by default ``step`` for training and ``example`` for the
        rest; without a terminal, log lines are ``interval`` seconds apart.
        """
        self._total, self._done, self._description = total, initial, description
        self._unit = unit or ("step" if description == "training" else "example")
        self._interval = interval
        self._opened = self._last_time = time.monotonic()
        self._last_done, self._begun = initial, False
        self._bar = self._open_bar() if sys.stderr.isatty() and is_main() else None

    def update(self, step: int, loss: SupportsFloat | None = None) -> None:
        """Set the progress to ``step``."""
        advanced, self._done, now = step - self._done, step, time.monotonic()
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix_str(f"loss {float(loss):.4g}", refresh=False)
            self._bar.update(advanced)
        if not self._begun:
            self._begin(now, loss)
        elif self._bar is None and now - self._last_time >= self._interval:
            self._log(now, loss)

    def advance(self, count: int) -> None:
        """Advance by ``count``."""
        self.update(self._done + count)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_bar(self) -> "tqdm":
        from tqdm import tqdm

        return tqdm(
            total=self._total,
            initial=self._done,
            desc=self._description,
            unit=f" {self._unit}s",
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def _begin(self, now: float, loss: SupportsFloat | None) -> None:
        """Start the clock after the first part of the work that takes real time."""
        self._begun = now - self._last_time >= _WORK or now - self._opened >= self._interval
        if self._begun and self._bar is not None:
            self._bar.reset()
            self._bar.n = self._bar.initial = self._bar.last_print_n = self._done
            self._bar.refresh()
        elif self._begun and now - self._opened >= self._interval:
            log.info("%s", self._state(loss))
        self._last_time, self._last_done = now, self._done

    def _log(self, now: float, loss: SupportsFloat | None) -> None:
        # The rate of the last interval; an overall rate would long remember a pause.
        rate = max(self._done - self._last_done, 1e-9) / (now - self._last_time)
        left = _duration((self._total - self._done) / rate)
        log.info("%s, %.3g %ss/s, %s left", self._state(loss), rate, self._unit, left)
        self._last_time, self._last_done = now, self._done

    def _state(self, loss: SupportsFloat | None) -> str:
        shown = "" if loss is None else f", loss {float(loss):.4g}"
        return f"{self._description}: {self._done}/{self._total} {self._unit}s{shown}"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _duration(59.6), _duration(3725.0)
    ('1:00', '1:02:05')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
