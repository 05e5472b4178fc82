"""A plan as a table for the log and ``plan.md``, and as a JSON record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from score_sde.errors import plural
from score_sde.plan.estimate import Plan
from score_sde.plan.program import size

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


def assumptions(plan: Plan) -> list[str]:
    """The assumptions behind the numbers."""
    own = plan.compiled_for.split(":")[0] in (plan.chip.name, plan.chip.platform)
    loop = []
    if plan.accumulate > 1 and ":" in plan.compiled_for:
        loop = ["The compiler counts a loop once; the traffic is that times training.accumulate, an upper bound."]
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
