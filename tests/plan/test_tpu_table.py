"""The table of TPU programs: what it takes for wrong."""

import pytest

from tests.scripts import EXPERIMENTS, load_script


@pytest.fixture(scope="module")
def table():
    return load_script(EXPERIMENTS / "plan" / "tpu_table.py")


def found(program="train", fsdp=1, total=2**30, **sizes):
    collectives = {kind.replace("_", "-"): {"num_bytes": size} for kind, size in sizes.items()}
    return {
        **{"program": program, "fsdp": fsdp, "chip": "v5e", "devices_per_chip": 1, "total": total, "gradient": 10**8},
        "collectives": collectives,
    }


@pytest.mark.parametrize(
    ("case", "complaints"),
    [
        (found(all_reduce=998 * 10**5), []),  # equal gradients are summed once
        (found(all_reduce=10**8, all_gather=10**6), ["all-gather"]),
        (found(fsdp=0, all_reduce=100, all_gather=10**6, reduce_scatter=10**8), []),
        (found(fsdp=0, all_reduce=10**8, all_to_all=10**6), ["all-to-all"]),
        (found(fsdp=0, all_reduce=10**8, all_to_all=8), ["all-to-all"]),
        (found(), ["a gradient that is not summed"]),
        (found(all_reduce=98 * 10**6), ["a gradient that is not summed"]),
        (found(fsdp=0, all_gather=10**8, reduce_scatter=10**7), ["a gradient that is not summed"]),
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
