"""The arithmetic of a plan: its limits, and that no way of splitting loses or invents bytes."""

import dataclasses

import pytest

from score_sde.plan.chips import CHIPS, this_machine
from score_sde.plan.estimate import Plan
from score_sde.plan.page import GUIDED, advise, assumptions, parts_that_fit
from score_sde.plan.program import Activations, Line, Program
from score_sde.plan.roofline import all_reduce_seconds, scaling, sharded_seconds, step_time

EVERY = pytest.mark.parametrize("chip", CHIPS.values(), ids=list(CHIPS))


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_is_bound_by_compute_above_the_ridge_and_by_memory_below(chip, dtype):
    ridge = chip.peak(dtype) / chip.bandwidth  # FLOPs per byte
    above = step_time(chip, dtype=dtype, flops=1e12 * ridge * 1.01, traffic=1e12)
    below = step_time(chip, dtype=dtype, flops=1e12 * ridge * 0.99, traffic=1e12)
    assert (above.bound, below.bound) == ("compute", "memory")
    assert above.alone * chip.peak(dtype) == pytest.approx(1e12 * ridge * 1.01)
    assert below.alone * chip.bandwidth == pytest.approx(1e12)
    assert above.serial == above.overlapped == above.alone  # nothing is sent


@EVERY
def test_efficiency_is_one_without_communication_and_falls_with_it(chip):
    free = scaling(chip, 0.1, gradients=0.0, parameters=0.0, fsdp=1)
    assert all(point.efficiency_serial == point.efficiency_overlapped == 1.0 for point in free)
    points = scaling(chip, 0.1, gradients=1e9, parameters=1e9, fsdp=1)
    efficiencies = [point.efficiency_serial for point in points]
    assert efficiencies[0] == 1.0 and efficiencies == sorted(efficiencies, reverse=True)
    assert all(point.efficiency_serial <= point.efficiency_overlapped <= 1.0 for point in points)
    nearly = scaling(chip, 0.1, gradients=1.0, parameters=1.0, fsdp=1)
    assert all(point.efficiency_serial == pytest.approx(1.0, abs=1e-6) for point in nearly)


@EVERY
def test_an_all_reduce_over_ever_more_chips_of_a_domain_takes_twice_the_time_of_sending(chip):
    endless = dataclasses.replace(chip, domain=10**9)
    assert all_reduce_seconds(endless, 1e9, 10**6) == pytest.approx(2e9 / chip.links, rel=1e-5)


@EVERY
@pytest.mark.parametrize("count", [2, 8])
def test_splitting_the_state_over_all_chips_of_a_domain_sends_as_much_as_an_all_reduce(chip, count):
    size = {"gradients": 1e9, "parameters": 1e9}
    alike = [sharded_seconds(chip, count=count, fsdp=fsdp, **size) for fsdp in (1, count)]
    assert alike[0] == pytest.approx(alike[1])


@EVERY
def test_groups_within_a_domain_leave_the_rest_of_an_all_reduce_to_the_groups(chip):
    """Reduce within, then between, then gather within is one way of doing an all-reduce over all."""
    wide = dataclasses.replace(chip, domain=1024)
    size = {"gradients": 1e9, "parameters": 1e9}
    whole = sharded_seconds(wide, count=64, fsdp=1, **size)
    assert [sharded_seconds(wide, count=64, fsdp=fsdp, **size) for fsdp in (4, 16)] == pytest.approx([whole, whole])


def test_halves_of_a_chip_take_as_long_for_half_the_work():
    chip = CHIPS["v4"]
    work = {"flops": 1e12, "traffic": 1e9, "sent": 1e8}
    half = step_time(chip.share(2), dtype="float32", **{name: value / 2 for name, value in work.items()})
    assert half == pytest.approx(step_time(chip, dtype="float32", **work))


def test_this_machine_does_what_was_measured_of_it():
    chip = this_machine(size=128, repeats=2)
    assert chip.platform == "cpu" and "measured" in chip.source
    assert 1e8 < chip.float32 < 1e16 and 1e8 < chip.bandwidth < 1e14 and chip.memory > 1e8


def test_the_parts_that_fit_are_the_fewest_that_do():
    memory = Line(fixed=10.0, per_example=1.0)
    for usable in map(float, range(8, 80)):
        parts = parts_that_fit(memory, usable, 64)
        fitting = [n for n in range(1, 65) if 64 % n == 0 and 10 + 64 / n <= usable]
        assert parts == (fitting[0] if fitting else None)


def _plan(**changes):
    chip = CHIPS["a100"]
    program = Program(examples=2, traffic=0.0, arguments=0, results=0, aliased=0, temporaries=0, collectives={})
    found = {
        "chip": chip,
        "devices": 1,
        "fsdp": 1,
        "compiled_for": "cpu",
        "dtype": "bfloat16",
        "remat": False,
        "parameters": 0,  # so that nothing is communicated
        "batch_size": 256,
        "per_device": 256,
        "accumulate": 1,
        "flops": Line(fixed=0.0, per_example=1e12),
        "state": 1_000_000_000,
        "memory": Line(fixed=1e9, per_example=1e8),  # of 710 examples at most
        "traffic": Line(fixed=1e9, per_example=0.0),
        "activations": Activations(stored=0.0, rematerialized=0.0),
        "headroom": 0.1,
        "program": program,
        "lowers": True,
    }
    return Plan(**{**found, **changes})


def _fields(**changes):
    return {sentence.split(":")[0].split("=")[0] for sentence in advise(_plan(**changes))}


def test_advice_names_the_field_that_mends_what_is_wrong():
    assert advise(_plan())[0].startswith("It fits")
    assert _fields(per_device=1024) == {"training.accumulate", "model.remat"}
    assert "training.accumulate=2" in advise(_plan(per_device=1024))[0]
    assert "model.remat" not in _fields(per_device=1024, remat=True)
    assert "mesh.fsdp" in _fields(memory=Line(100e9, 1e8), state=100_000_000_000)
    assert _fields(dtype="float32") == {"model.dtype"}
    assert _fields(remat=True, per_device=128) == {"model.remat"}
    assert _fields(parameters=10_000_000_000) == {"training.batch_size"}


def test_a_plan_says_that_it_leaves_a_guiding_classifier_out():
    assert GUIDED in assumptions(_plan(guided=True)) and GUIDED not in assumptions(_plan())
