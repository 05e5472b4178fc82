"""A plan as a table for the log and ``plan.md``, as a JSON record, and as advice on settings."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from score_sde.errors import plural
from score_sde.plan.estimate import Plan
from score_sde.plan.program import Line, size

COMMUNICATION = 0.1  # share of communication in a step from which advice is given
ROOM = 4  # a larger batch is suggested if so many times the configured one fit
ASSUMPTIONS = (
    "Times are those of the roofline: every rate is the peak of the data sheet, computation and memory overlap, and "
    "the longer one counts. Programs do not reach these rates; expect a measured step to take longer.",
    "FLOPs are those of the program before it is optimized, the model and its gradient as written; they are exactly "
    "linear in the batch.",
    "Memory and traffic are taken for linear in the batch, through the compiler's figures for two batches.",
    "What is kept for the backward pass is what JAX hands to the compiler, which may compute some of it again itself.",
    "Efficiency is that of a step at the roofline, with the same batch per device on any number of chips. Gradients "
    "and parameters travel as float32, in rings that use all links of a chip: small slices, in which the torus is not "
    "closed, have fewer. The first number leaves communication after the computation, the second hides as much as "
    "there is time.",
)
FOREIGN = (
    "The program was compiled for another platform than the chip's, so its memory and traffic are estimates of those "
    "on the chip: its compiler fuses and pads otherwise."
)

GUIDED = (
    "The classifier of config.conditioning.classifier guides samples. Training does not use it, so neither its "
    "parameters nor its gradients are counted."
)


def assumptions(plan: Plan) -> list[str]:
    """The assumptions behind the numbers."""
    own = plan.compiled_for.split(":")[0] in (plan.chip.name, plan.chip.platform)
    loop = [GUIDED] if plan.guided else []
    if plan.accumulate > 1 and ":" in plan.compiled_for:
        loop += ["The compiler counts a loop once; the traffic is that times training.accumulate, an upper bound."]
    return [*ASSUMPTIONS, *loop] if own else [FOREIGN, *ASSUMPTIONS, *loop]


def record(plan: Plan, advice: list[str], how: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as JSON; bytes are per device, FLOPs both per device and in total."""
    program = dataclasses.asdict(plan.program)
    program["collectives"] = {kind: found._asdict() for kind, found in plan.program.collectives.items()}
    time = plan.time
    return {
        "parameters": plan.parameters,
        "batch_size": plan.batch_size,
        "devices": plan.devices,
        "fsdp": plan.fsdp,
        "batch_per_device": plan.per_device,
        "flops_per_step": plan.step_flops,
        "flops_per_example": plan.flops.per_example,
        "flops_of_the_update": plan.flops.fixed,
        "bytes": {
            "state": plan.state,
            "fixed": plan.memory.fixed,
            "per_example": plan.memory.per_example,
            "total": plan.memory.at(plan.per_device),
            "usable": plan.usable,
        },
        "kept_per_example": {"stored": plan.activations.stored, "rematerialised": plan.activations.rematerialized},
        "largest_batch_per_device": plan.largest_batch,
        "fits": plan.memory.at(plan.per_device) <= plan.usable,
        "traffic": plan.traffic.at(plan.per_device),
        "seconds": {**time._asdict(), "serial": time.serial, "overlapped": time.overlapped, "bound": time.bound},
        "steps_per_second_at_peaks": 1.0 / time.overlapped,
        "examples_per_second_at_peaks": plan.batch_size / time.overlapped,
        "scaling": [point._asdict() for point in plan.scaling],
        "program": program,
        "compiled_for": plan.compiled_for,
        "lowers_for": {plan.chip.platform: plan.lowers},
        "chip": dataclasses.asdict(plan.chip),
        "dtype": plan.dtype,
        "advice": advice,
        "assumptions": assumptions(plan),
        **how,
    }


def rows(plan: Plan) -> list[tuple[str, str]]:
    """The rows of the short table: name and value."""
    time = plan.time
    fits = "fits" if plan.memory.at(plan.per_device) <= plan.usable else "does not fit"
    return [
        ("parameters", f"{plan.parameters:,}"),
        ("devices", f"{plan.devices} (fsdp {plan.fsdp}), {plan.per_device} {plural(plan.per_device, 'example')} each"),
        ("FLOPs per step", f"{plan.step_flops:.3g} ({plan.flops.per_example:.3g} per example)"),
        ("state per device", size(plan.state)),
        (
            "memory per device",
            f"{size(plan.memory.at(plan.per_device))} of {size(plan.usable)} usable: {fits}",
        ),
        ("memory per example", size(plan.memory.per_example)),
        (
            "kept for the backward pass",
            f"{size(plan.activations.stored)} per example, "
            f"{size(plan.activations.rematerialized)} with model.remat=True",
        ),
        ("largest batch per device", f"{plan.largest_batch:,}"),
        ("time of computation", f"{1e3 * time.compute:.3g} ms"),
        ("time of memory", f"{1e3 * time.memory:.3g} ms"),
        ("time of communication", f"{1e3 * time.communication:.3g} ms"),
        ("steps per second at peaks", f"{1.0 / time.serial:.3g} to {1.0 / time.overlapped:.3g}, bound by {time.bound}"),
        *(
            (f"{kind} per step", f"{found.operations}, {size(found.num_bytes)}")
            for kind, found in sorted(plan.program.collectives.items())
        ),
    ]


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
