"""What training and sampling the CIFAR-10 networks need of TPUs, from their compiler, which needs no TPU.

    python experiments/plan/tpu_table.py --out=tpu

Every case is compiled in a process of its own, for minutes each, and gives one line of ``tpu.jsonl``; ``tpu.md`` is
written anew after each. What is there already is passed over, so the script can be stopped and started again. It needs
libtpu (``pip install 'jax[tpu]'``); ``--only=v5e:2x2`` takes the cases whose name has that in it; ``--blocks=1`` makes
the networks that shallow, which takes a quarter of the time and leaves the kinds of messages as they are.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
CONFIGS = ("vp/cifar10_ddpmpp_continuous", "ve/cifar10_ncsnpp_continuous")
TOPOLOGIES = {
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
PER_DEVICE = 32  # examples; the same everywhere, so that only the number of devices changes
COLUMNS = ("program", "config", "topology", "fsdp", "examples", "state", "memory", "all-reduce", "other", "seconds")


class Case(NamedTuple):
    """One program for one topology."""

    program: str  # train or sample
    config: str
    chip: str
    topology: str
    fsdp: int  # 1, or 0 for all devices
    blocks: int = 0  # per resolution; 0 for the configuration's

    @property
    def name(self) -> str:
        """What it is known by in the table."""
        kind = "fsdp" if self.fsdp == 0 else "data"
        depth = f" blocks={self.blocks}" if self.blocks else ""
        return f"{self.program} {self.config} {self.chip}:{self.topology} {kind}{depth}"


def cases(blocks: int) -> Iterator[Case]:
    """The smallest topologies of all chips first, so that an interrupted table is of use."""
    for size in range(max(map(len, TOPOLOGIES.values()))):
        for chip, topologies in TOPOLOGIES.items():
            for config in CONFIGS:
                # Samplers take whole parameters, so that splitting the state changes nothing for them.
                for program, fsdp in (("train", 1), ("train", 0), ("sample", 1)):
                    yield Case(program, config, chip, topologies[size], fsdp, blocks)


def compile_case(case: Case) -> dict[str, Any]:
    """Compile a case in this process and say what it needs; bytes are those of one device."""
    from score_sde.cli import load_config
    from score_sde.experiment import Experiment
    from score_sde.modes.workdir import data_info
    from score_sde.plan.chips import find_chip
    from score_sde.plan.program import described_mesh, read, sample_program, state_bytes, train_program
    from score_sde.report.environment import describe_machine

    overrides = ["--config.data.shape=(32,32,3)", f"--config.mesh.fsdp={case.fsdp}"]
    if case.blocks:
        overrides.append(f"--config.model.num_blocks={case.blocks}")
    config = load_config(ROOT / "configs" / f"{case.config}.py", overrides)
    mesh, parts = described_mesh(find_chip(case.chip), case.topology, fsdp=case.fsdp)
    info = data_info(config)
    experiment = Experiment.from_config(config, info.shape, info.num_levels, mesh=mesh)
    program = train_program if case.program == "train" else sample_program
    function, arguments = program(experiment, PER_DEVICE * mesh.size)
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    found = read(compiled, PER_DEVICE, mesh.size)
    collectives = {kind: collective._asdict() for kind, collective in found.collectives.items()}
    return {
        "name": case.name,
        **case._asdict(),
        "devices": mesh.size,
        "devices_per_chip": parts,
        "examples_per_device": PER_DEVICE,
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


def row(found: dict[str, Any]) -> str:
    """A line of the Markdown table."""
    where = f"{found['chip']}:{found['topology']}"
    found = found | {"config": found["config"] + (f", {found['blocks']} block" if found.get("blocks") else "")}
    if "failed" in found:
        return f"| {found['program']} | {found['config']} | {where} | {found['fsdp']} | {found['failed']} |"
    collectives = found["collectives"]
    moved = {kind: one["num_bytes"] / 2**20 for kind, one in collectives.items()}
    others = ", ".join(f"{kind} {size:.0f}" for kind, size in sorted(moved.items()) if kind != "all-reduce")
    return (
        f"| {found['program']} | {found['config']} | {where} ({found['devices']}) | {found['fsdp'] or 'all'} | "
        f"{found['examples_per_device']} | {found['state'] / 2**20:.0f} | {found['total'] / 2**20:.0f} | "
        f"{moved.get('all-reduce', 0.0):.0f} | {others} | {found['compile_seconds']:.0f} |"
    )


def main() -> None:
    """Compile what is not in the table yet."""
    parser = argparse.ArgumentParser(description="What CIFAR-10 networks need of TPUs.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tpu"))
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument(
        "--blocks", type=int, default=0, help="residual blocks per resolution; 0 for the configuration's"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(compile_case(Case(*json.loads(options.case)))))
        return
    lines = options.out.with_suffix(".jsonl")
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    for case in cases(options.blocks):
        if options.only not in case.name or any(result["name"] == case.name for result in found):
            continue
        print(case.name, flush=True)
        found.append(run_apart(case))
        with lines.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
        head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
        table = head + "\n".join(row(result) for result in found)
        options.out.with_suffix(".md").write_text(f"Sizes in MiB per device.\n\n{table}\n")


if __name__ == "__main__":
    main()
