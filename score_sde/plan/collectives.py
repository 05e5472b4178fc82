"""Communication between the devices of a compiled program, read from its text."""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from score_sde.plan.roofline import ring

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
    """The collective operations of one kind in one step."""

    operations: int
    num_bytes: int  # of the whole arrays reduced, gathered or exchanged
    sent: float  # bytes sent by a device for them, in rings


def collectives(text: str, devices: int, *, turns: int = 1) -> dict[str, Collective]:
    """Collective operations in the text of a compiled program, by kind; those in a loop count once per iteration.

    Bytes sent by a device are counted for rings of ``n`` devices: ``2 (n - 1) / n`` of the bytes of an all-reduce, and
    half as much for a reduce-scatter or an all-gather.

    Loops turn ``turns`` times where the text gives no number, as on TPUs.

    >>> line = "  %r = f32[10]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add"
    >>> collectives(line, 4)
    {'all-reduce': Collective(operations=1, num_bytes=40, sent=40.0)}
    """
    times = _times(text, turns)
    found: dict[str, Collective] = {}
    for computation, line in _lines(text):
        if not (match := _OPERATION.search(line)):
            continue
        result, kind, started = match.groups()
        size, count = _group_size(line, devices), times(computation)
        sizes = [_num_bytes(*shape) for shape in _SHAPE.findall(result)]
        if started and kind == "all-gather":  # the result of a started one lists the operands first
            sizes = sizes[len(sizes) // 2 :]
        elif started and kind == "collective-permute":
            sizes = sizes[:1]
        num_bytes = sum(sizes) * (size if kind == "reduce-scatter" else 1)
        if computation.startswith("all-reduce-scatter"):  # on TPUs, a fusion of a reduction and its slice
            kind = "reduce-scatter"
        share = {"all-reduce": 2.0 * ring(size), "collective-permute": 1.0}.get(kind, ring(size))
        old = found.get(kind, Collective(0, 0, 0.0))
        found[kind] = Collective(
            old.operations + count, old.num_bytes + count * num_bytes, old.sent + count * share * num_bytes
        )
    return found


def _num_bytes(kind: str, bits: str, dims: str) -> int:
    width = 1 if kind == "pred" else max(int(bits) // 8, 1)
    return width * math.prod(int(size) for size in dims.split(",") if size)


def _group_size(line: str, devices: int) -> int:
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return devices


def _lines(text: str) -> Iterator[tuple[str, str]]:
    computation = ""
    for line in text.splitlines():
        if match := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = match[1]
        else:
            yield computation, line


def _times(text: str, turns: int) -> Callable[[str], int]:
    """The number of runs of each computation in a step, given the loops around it."""
    callers: dict[str, tuple[str, int]] = {}
    for computation, line in _lines(text):
        trips = 1
        if " while(" in line:
            trips = int(match[1]) if (match := _TRIPS.search(line)) else turns
        for name in _CALLED.findall(line):
            callers[name] = (computation, trips)

    def times(computation: str) -> int:
        if computation not in callers:
            return 1
        caller, trips = callers[computation]
        return trips * times(caller)

    return times
