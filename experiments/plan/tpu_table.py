"""What training and sampling the CIFAR-10 networks need of TPUs, from their compiler, which needs no TPU.

    python experiments/plan/tpu_table.py --out=tpu

Every case is compiled in a process of its own, for minutes each, and gives one line of ``tpu.jsonl``; ``tpu.md`` is
written anew after each. What is there already is passed over, so the script can be stopped and started again. It needs
libtpu (``pip install 'jax[tpu]'``); ``--only=v5e:2x2`` takes the cases whose name has that in it; ``--blocks=1`` makes
the networks that shallow, which takes half of the time and leaves the kinds of messages as they are;
``--config=vp/digits_ddpmpp`` takes another network than those of CIFAR-10.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.cli import run_script

ROOT = Path(__file__).parents[2]
CONFIGS = ("vp/cifar10_ddpmpp_continuous", "ve/cifar10_ncsnpp_continuous")
TOPOLOGIES = {
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
PER_DEVICE = 32  # examples, unless told; the same everywhere, so that only the number of devices changes
COLUMNS = (
    *("program", "config", "topology", "fsdp", "examples", "state", "memory", "of the chip"),
    *("all-reduce", "other messages", "seconds"),
)
# What devices have to tell each other: the gradient, or, where the state is split, parts of it and of the parameters.
# Samplers have nothing to tell but a Langevin corrector's step, which is of the mean norms of the batch: two numbers.
EXPECTED = {
    ("train", False): {"all-reduce"},
    ("train", True): {"all-reduce", "reduce-scatter", "all-gather"},
    ("sample", False): set(),
}
SUMS = ("all-reduce", "reduce-scatter")
# The share of the gradient that has to be summed. Biases that are added at the same place have the same gradient, which
# the compiler sums once: 0.2 % of that of the digits, less of larger networks.
SUMMED = 0.99
NUMBERS = 64  # bytes; what is shorter holds no array


class Case(NamedTuple):
    """One program for one topology."""

    program: str  # train or sample
    config: str
    chip: str
    topology: str
    fsdp: int  # devices that share a state; 0 for all
    blocks: int = 0  # per resolution; 0 for the configuration's
    examples: int = PER_DEVICE

    @property
    def name(self) -> str:
        """What it is known by in the table."""
        kind = {0: "fsdp", 1: "data"}.get(self.fsdp, f"fsdp={self.fsdp}")
        depth = f" blocks={self.blocks}" if self.blocks else ""
        size = f" examples={self.examples}" if self.examples != PER_DEVICE else ""
        return f"{self.program} {self.config} {self.chip}:{self.topology} {kind}{depth}{size}"


def cases(configs: Sequence[str], blocks: int, examples: int, split: int) -> Iterator[Case]:
    """The smallest topologies of all chips first, so that an interrupted table is of use."""
    for size in range(max(map(len, TOPOLOGIES.values()))):
        for chip, topologies in TOPOLOGIES.items():
            for config in configs:
                # Samplers take whole parameters, so that splitting the state changes nothing for them.
                for program, fsdp in (("train", 1), ("train", split), ("sample", 1)):
                    yield Case(program, config, chip, topologies[size], fsdp, blocks, examples)


def compile_case(case: Case) -> dict[str, Any]:
    """Compile a case in this process and say what it needs; bytes are those of one device."""
    import jax

    from score_sde.cli import load_config
    from score_sde.experiment import Experiment
    from score_sde.machine import describe_machine
    from score_sde.modes.workdir import data_info
    from score_sde.plan.chips import find_chip
    from score_sde.plan.program import described_mesh, read, sample_program, state_bytes, train_program

    overrides = [f"--config.mesh.fsdp={case.fsdp}"]
    if case.config in CONFIGS:
        overrides.append("--config.data.shape=(32,32,3)")  # so that nothing is downloaded to find it out
    if case.blocks:
        overrides.append(f"--config.model.num_blocks={case.blocks}")
    config = load_config(ROOT / "configs" / f"{case.config}.py", overrides)
    mesh, parts = described_mesh(find_chip(case.chip), case.topology, fsdp=case.fsdp)
    info = data_info(config)
    experiment = Experiment.from_config(config, info.shape, info.num_grey_levels, mesh=mesh)
    params = jax.tree.leaves(experiment.abstract_state().params)
    program = train_program if case.program == "train" else sample_program
    function, arguments = program(experiment, case.examples * mesh.size)
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    found = read(compiled, case.examples, mesh.size)
    collectives = {kind: collective._asdict() for kind, collective in found.collectives.items()}
    return {
        "name": case.name,
        **case._asdict(),
        "devices": mesh.size,
        "devices_per_chip": parts,
        "gradient": sum(leaf.size * leaf.dtype.itemsize for leaf in params),
        "state": state_bytes(experiment),
        "arguments": found.arguments,
        "temporaries": found.temporaries,
        "total": found.total,
        "traffic": found.traffic,
        "collectives": collectives,
        "compile_seconds": seconds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
    }


def run_apart(case: Case) -> dict[str, Any]:
    """Compile a case in a process of its own; a failure is a result too, with the last line that was said."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "JAX_COMPILATION_CACHE_DIR": ""}
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"name": case.name, **case._asdict(), "failed": said[-1][:300] if said else f"exit {done.returncode}"}


def wrong(found: dict[str, Any]) -> list[str]:
    """What is not as it should be: it cannot be compiled, does not fit, or devices say too much or too little."""
    if "failed" in found:
        return [found["failed"]]
    sizes = {kind: collective["num_bytes"] for kind, collective in found["collectives"].items()}
    strange = set(sizes) - EXPECTED[found["program"], found["fsdp"] != 1]
    if found["program"] == "sample" and sizes.get("all-reduce", 0) <= NUMBERS:
        strange.discard("all-reduce")
    told = sum(sizes.get(kind, 0) for kind in SUMS)
    silent = found["program"] == "train" and told < SUMMED * found["gradient"]
    return [
        *sorted(strange),
        *(["a gradient that is not summed"] if silent else []),
        *(["does not fit"] if share(found) > 1.0 else []),
    ]


def share(found: dict[str, Any]) -> float:
    """The share of its memory that a program takes of a device."""
    from score_sde.plan.chips import find_chip

    return found["total"] / find_chip(found["chip"]).share(found["devices_per_chip"]).memory


def row(found: dict[str, Any]) -> str:
    """A line of the Markdown table."""
    where = f"{found['chip']}:{found['topology']}"
    found = found | {"config": found["config"] + (f", {found['blocks']} block" if found.get("blocks") else "")}
    if "failed" in found:
        return f"| {found['program']} | {found['config']} | {where} | {found['fsdp']} | {found['failed']} |"
    collectives = found["collectives"]
    moved = {kind: one["num_bytes"] / 2**20 for kind, one in collectives.items()}
    others = ", ".join(f"{kind} {size:.1f}" for kind, size in sorted(moved.items()) if kind != "all-reduce")
    return (
        f"| {found['program']} | {found['config']} | {where} ({found['devices']}) | {found['fsdp'] or 'all'} | "
        f"{found['examples']} | {found['state'] / 2**20:.1f} | {found['total'] / 2**20:.1f} | "
        f"{share(found):.1%} | {moved.get('all-reduce', 0.0):.1f} | {others} | {found['compile_seconds']:.0f} |"
    )


def main() -> None:
    """Compile what is not in the table yet."""
    parser = argparse.ArgumentParser(description="What CIFAR-10 networks need of TPUs.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tpu"))
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument(
        "--blocks", type=int, default=0, help="residual blocks per resolution; 0 for the configuration's"
    )
    parser.add_argument("--fsdp", type=int, default=0, help="devices that share a state, where it is split; 0 for all")
    parser.add_argument("--examples", type=int, default=PER_DEVICE, help="per device")
    parser.add_argument("--config", action="append", help="may be given several times")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(compile_case(Case(*json.loads(options.case)))))
        return
    lines = options.out.with_suffix(".jsonl")
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    for case in cases(options.config or CONFIGS, options.blocks, options.examples, options.fsdp):
        if options.only not in case.name or any(result["name"] == case.name for result in found):
            continue
        print(case.name, flush=True)
        found.append(run_apart(case))
        with lines.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
        head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
        table = head + "\n".join(row(result) for result in found)
        options.out.with_suffix(".md").write_text(f"Sizes in MiB per device.\n\n{table}\n")
    for result in found:
        for what in wrong(result):
            print(f"{result['name']}: {what}")
    if any(map(wrong, found)):
        sys.exit("Not all programs are what they should be.")


if __name__ == "__main__":
    sys.exit(run_script("tpu_table", main))
