"""The table of TPU programs: what it takes for wrong."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "plan" / "tpu_table.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("tpu_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(program="train", fsdp=1, total=2**30, **sizes):
    collectives = {kind.replace("_", "-"): {"num_bytes": size} for kind, size in sizes.items()}
    return {
        **{"program": program, "fsdp": fsdp, "chip": "v5e", "devices_per_chip": 1, "total": total},
        "collectives": collectives,
    }


@pytest.mark.parametrize(
    ("case", "complaints"),
    [
        (found(all_reduce=10**8), []),
        (found(all_reduce=10**8, all_gather=10**6), ["all-gather"]),
        (found(fsdp=0, all_reduce=100, all_gather=10**6, reduce_scatter=10**6), []),
        (found(fsdp=0, all_to_all=10**6), ["all-to-all"]),
        (found(fsdp=0, all_to_all=8), ["all-to-all"]),
        (found("sample", all_gather=8), ["all-gather"]),
        (found("sample"), []),
        (found("sample", all_reduce=8), []),  # the norms of the Langevin corrector
        (found("sample", all_reduce=4 * 32 * 32 * 3), ["all-reduce"]),  # an image
        (found(total=2**35, all_reduce=10**8), ["does not fit"]),
        ({"program": "train", "fsdp": 1, "failed": "out of memory"}, ["out of memory"]),
    ],
)
def test_messages_that_are_not_needed_and_programs_that_do_not_fit_are_named(table, case, complaints):
    assert table.wrong(case) == complaints


def test_every_case_has_its_own_name(table):
    names = [case.name for case in table.cases(table.CONFIGS, 0, table.PER_DEVICE, 0)]
    assert len(set(names)) == len(names) == 21 * 2 * 3
