"""Advice on settings, from the needs of a step and the available hardware."""

import math
from typing import NamedTuple

from score_sde.plan.chips import Chip
from score_sde.plan.program import Line
from score_sde.plan.roofline import Scaling, StepTime

COMMUNICATION = 0.1  # share of communication in a step from which advice is given
ROOM = 4  # a larger batch is suggested if so many times the configured one fit


class Situation(NamedTuple):
    """The input to advice; bytes are per device."""

    memory: Line  # by examples per device
    usable: float
    per_device: int
    largest: int  # examples per device that fit
    accumulate: int
    state: int
    fsdp: int
    devices: int
    remat: bool
    dtype: str
    chip: Chip
    time: StepTime
    scaling: list[Scaling]


def advise(found: Situation) -> list[str]:
    """Sentences that name a field and its effect, the most urgent first; a single reassuring one if all is well."""
    advice = [*_memory(found), *_speed(found), *_communication(found)]
    return advice or ["It fits, and nothing here would make it much faster."]


def parts_that_fit(memory: Line, usable: float | int, per_device: int) -> int | None:
    """The smallest divisor of a device's batch such that the gradient fits in that many parts; ``None`` if none does.

    >>> parts_that_fit(Line(fixed=10.0, per_example=1.0), 18.0, 16), parts_that_fit(Line(10.0, 1.0), 9.0, 16)
    (2, None)
    """
    for parts in range(1, per_device + 1):
        if per_device % parts == 0 and memory.at(per_device / parts) <= usable:
            return parts
    return None


def _memory(found: Situation) -> list[str]:
    if found.memory.at(found.per_device) <= found.usable:
        return []
    advice = []
    # If the program already computes in parts, the line still counts all examples of a device.
    whole = Line(found.memory.fixed, found.memory.per_example * found.accumulate)
    parts = parts_that_fit(whole, found.usable, found.per_device)
    if parts is not None:
        advice.append(
            f"training.accumulate={parts}: the batch of {found.per_device} per device does not fit at once; in {parts} "
            "parts it does, by the line through the two programs."
        )
    if not found.remat:
        advice.append(
            "model.remat=True: residual blocks are computed again in the backward pass, which takes a third more time "
            f"and much less than the {_size(found.memory.per_example)} per example; plan again with it."
        )
    if parts is None or found.state > found.usable / 4:
        groups = _groups(found)
        advice.append(
            f"mesh.fsdp={groups}: the state of {_size(found.state)} per device becomes about "
            f"{_size(found.state * found.fsdp / groups)}, for a gathering of the parameters in every step."
        )
    return advice


def _groups(found: Situation) -> int:
    """The smallest power of two of devices that leaves the state at most a quarter of the memory."""
    ratio = found.state * found.fsdp / (found.usable / 4)
    return max(2 ** math.ceil(math.log2(max(ratio, 1.0))), 2 * found.fsdp)


def _speed(found: Situation) -> list[str]:
    advice = []
    chip, faster = found.chip, found.chip.bfloat16 / found.chip.float32
    if found.dtype == "float32" and found.time.bound == "compute" and faster > 1.0:
        advice.append(
            f"model.dtype=bfloat16: products, which bound this step, are up to {faster:.0f} times as fast on "
            f"{chip.name}."
        )
    if found.largest >= ROOM * found.per_device and found.accumulate > 1:
        advice.append(f"training.accumulate=1: {found.largest} examples fit into a device, and parts only cost time.")
    if found.remat and found.largest >= ROOM * found.per_device:
        advice.append("model.remat=False: there is room, and it takes a third of the time.")
    return advice


def _communication(found: Situation) -> list[str]:
    poor = [point for point in found.scaling if point.efficiency_serial < 1.0 - COMMUNICATION]
    if not poor:
        return []
    larger = f"up to {found.largest} examples per device fit. " if found.largest > found.per_device else ""
    return [
        f"training.batch_size: with {found.per_device} per device communication takes more than "
        f"{100 * COMMUNICATION:.0f} % of a step from {poor[0].chips} chips on unless it is hidden; {larger}"
        "More examples per device make it a smaller share."
    ]


def _size(num_bytes: float | int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
