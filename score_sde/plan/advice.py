"""Advice on settings, from the needs of a step and the available hardware."""

import math

from score_sde.plan.estimate import Plan
from score_sde.plan.program import Line, size

COMMUNICATION = 0.1  # share of communication in a step from which advice is given
ROOM = 4  # a larger batch is suggested if so many times the configured one fit


def advise(plan: Plan) -> list[str]:
    """Sentences that name a field and its effect, the most urgent first; a single reassuring one if all is well."""
    advice = [*_memory(plan), *_speed(plan), *_communication(plan)]
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


def _memory(plan: Plan) -> list[str]:
    if plan.memory.at(plan.per_device) <= plan.usable:
        return []
    advice = []
    # If the program already computes in parts, the line still counts all examples of a device.
    whole = Line(plan.memory.fixed, plan.memory.per_example * plan.accumulate)
    parts = parts_that_fit(whole, plan.usable, plan.per_device)
    if parts is not None:
        advice.append(
            f"training.accumulate={parts}: the batch of {plan.per_device} per device does not fit at once; in {parts} "
            "parts it does, by the line through the two programs."
        )
    if not plan.remat:
        advice.append(
            "model.remat=True: residual blocks are computed again in the backward pass, which takes a third more time "
            f"and much less than the {size(plan.memory.per_example)} per example; plan again with it."
        )
    if parts is None or plan.state > plan.usable / 4:
        groups = _groups(plan)
        advice.append(
            f"mesh.fsdp={groups}: the state of {size(plan.state)} per device becomes about "
            f"{size(plan.state * plan.fsdp / groups)}, for a gathering of the parameters in every step."
        )
    return advice


def _groups(plan: Plan) -> int:
    """The smallest power of two of devices that leaves the state at most a quarter of the memory."""
    ratio = plan.state * plan.fsdp / (plan.usable / 4)
    return max(2 ** math.ceil(math.log2(max(ratio, 1.0))), 2 * plan.fsdp)


def _speed(plan: Plan) -> list[str]:
    advice = []
    chip, faster = plan.chip, plan.chip.bfloat16 / plan.chip.float32
    if plan.dtype == "float32" and plan.time.bound == "compute" and faster > 1.0:
        advice.append(
            f"model.dtype=bfloat16: products, which bound this step, are up to {faster:.0f} times as fast on "
            f"{chip.name}."
        )
    largest = plan.largest_batch
    if largest >= ROOM * plan.per_device and plan.accumulate > 1:
        advice.append(f"training.accumulate=1: {largest} examples fit into a device, and parts only cost time.")
    if largest >= ROOM * plan.per_device and plan.remat:
        advice.append("model.remat=False: there is room, and it takes a third of the time.")
    return advice


def _communication(plan: Plan) -> list[str]:
    poor = [point for point in plan.scaling if point.efficiency_serial < 1.0 - COMMUNICATION]
    if not poor:
        return []
    larger = f"up to {plan.largest_batch} examples per device fit. " if plan.largest_batch > plan.per_device else ""
    return [
        f"training.batch_size: with {plan.per_device} per device communication takes more than "
        f"{100 * COMMUNICATION:.0f} % of a step from {poor[0].chips} chips on unless it is hidden; {larger}"
        "More examples per device make it a smaller share."
    ]
