"""What is read from compiled programs, against counts by hand and what JAX itself allocates."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from score_sde.distributed import AXES, state_sharding
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields import DEFAULTS
from score_sde.plan import estimate
from score_sde.plan.collectives import collectives
from score_sde.plan.estimate import measure_two
from score_sde.plan.program import (
    Program,
    activations,
    count_flops,
    flops_of,
    line_through,
    measure,
    num_parameters,
    read,
    state_bytes,
    train_program,
    undivided,
)


def _config(**changes):
    small = {"model.features": 8, "model.channel_multipliers": (1, 1), "model.num_blocks": 1}
    small |= {"model.attention_resolutions": (), "model.dropout": 0.0, "training.batch_size": 8}
    return DEFAULTS.with_fields({**small, **changes})


def _mesh(data, fsdp):
    devices = np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)


MLP = {"model.name": "mlp", "model.features": 128, "model.num_blocks": 3}


@functools.cache
def _experiment(data=1, fsdp=1):
    return Experiment.from_config(_config(**MLP), (2,), None, mesh=_mesh(data, fsdp))


@functools.cache
def _program(data=1, fsdp=1):
    return measure(_experiment(data, fsdp), 4)


def test_a_run_on_labels_is_planned_with_its_labels():
    """A class is a row of a table added to an embedding: next to nothing beside the layers of the network."""
    plain, classes = _config(**MLP), _config(**MLP, **{"conditioning.classes": True, "model.num_classes": 3})
    stored = [activations(config, (2,), None).stored for config in (plain, classes)]
    assert stored[0] <= stored[1] < 1.2 * stored[0]
    experiments = [undivided(config, (2,), None) for config in (plain, classes)]
    flops = [
        flops_of(*parts) for parts in ((step, *given) for step, given in (train_program(e, 4) for e in experiments))
    ]
    assert flops[0] < flops[1] < 1.2 * flops[0]
    assert num_parameters(experiments[1]) - num_parameters(experiments[0]) == 4 * 128  # and a row for no class


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_what_is_kept_for_the_backward_pass_does_not_depend_on_the_setting_and_is_less_with_remat(remat):
    config = _config(**{"model.name": "ncsnpp", "model.remat": remat})
    found = activations(config, (8, 8, 1), 17)
    assert 0.0 < found.rematerialized < 0.6 * found.stored
    assert config.model.remat == remat


def test_a_layer_more_keeps_its_activations():
    """A residual block of the MLP: what is kept per example grows by the same number of features each time."""
    kept = [activations(_config(**MLP | {"model.num_blocks": n}), (2,), None).stored for n in (1, 2, 3)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 4 * MLP["model.features"]


def test_parameters_are_those_of_the_network():
    experiment = _experiment()
    params = experiment.network.init(jax.random.key(0), (1, 2))
    assert num_parameters(experiment) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_operations_of_a_convolution_and_its_gradients_are_the_products_and_sums_by_hand():
    x, kernel = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((3, 12, 10, 8), (3, 3, 8, 16)))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    by_hand = 2 * 3 * (10 * 8) * 16 * (3 * 3 * 8)
    assert flops_of(jax.jit(convolve), x, kernel) == by_hand
    both = flops_of(jax.jit(jax.grad(lambda x, kernel: convolve(x, kernel).sum(), argnums=(0, 1))), x, kernel)
    assert both == pytest.approx(2 * by_hand, rel=0.02)  # the result itself is not needed


@pytest.mark.slow
def test_operations_of_training_are_those_of_its_matrices_and_linear_in_the_batch():
    """Every matrix is used once per example: forward, for its gradient, and, but for the first, for its input's."""
    config = _config(**MLP)
    flops = count_flops(config, (2,), None, 64)
    matrices = [leaf.shape for leaf in jax.tree.leaves(_experiment().abstract_state().params) if leaf.ndim == 2]
    by_hand = sum(6 * math.prod(shape) for shape in matrices)
    assert flops.per_example == pytest.approx(by_hand, rel=0.1)
    for examples in (8, 256):
        measured = count_flops(config, (2,), None, examples)
        assert measured.per_example == pytest.approx(flops.per_example, rel=1e-3)
        assert measured.fixed == pytest.approx(flops.fixed, rel=1e-2)


def test_parts_of_the_batch_cost_no_more_operations():
    counts = [count_flops(_config(**MLP, **{"training.accumulate": n}), (2,), None, 8) for n in (1, 4)]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_memory_is_linear_in_the_batch():
    config = _config(**{"model.channel_multipliers": (1,)})
    experiment = Experiment.from_config(config, (8, 8, 1), 17, mesh=_mesh(1, 1))
    small, large, third = (measure(experiment, size).total for size in (8, 16, 40))
    line = line_through((8, small), (16, large))
    assert line.at(40) == pytest.approx(third, rel=0.03)
    assert line.largest(1.04 * third) >= 40 > line.largest(0.9 * third)


@pytest.mark.sweep
@pytest.mark.parametrize(("data", "fsdp"), [(2, 1), (1, 2)])
def test_bytes_of_the_state_are_those_of_the_parts_that_a_device_holds(data, fsdp):
    experiment = _experiment(data, fsdp)
    sharding = state_sharding(experiment.mesh, experiment.abstract_state())
    unoptimized = {"xla_backend_optimization_level": 0}
    state = jax.jit(experiment.init_state, out_shardings=sharding, compiler_options=unoptimized)()
    plain = jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, state
    )
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(plain))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(plain))
    assert state_bytes(experiment) == held
    assert held == whole if fsdp == 1 else held < 0.7 * whole


@pytest.mark.slow
def test_devices_that_share_the_batch_reduce_the_gradient_and_no_more():
    program = _program(2, 1)
    assert set(program.collectives) == {"all-reduce"}
    size = 4 * num_parameters(_experiment())
    assert size <= program.collectives["all-reduce"].num_bytes <= 1.02 * size
    assert program.sent == program.collectives["all-reduce"].num_bytes  # 2 (n - 1) / n of it, for two
    assert not _program().collectives


@pytest.mark.slow
def test_devices_that_share_the_state_gather_the_parts_of_it():
    program = _program(1, 2)
    split = [leaf for leaf in jax.tree.leaves(_experiment(1, 2).abstract_state().params) if any(leaf.sharding.spec)]
    gathered = sum(4 * math.prod(leaf.shape) for leaf in split)
    assert split and program.collectives["all-gather"].num_bytes >= gathered
    assert program.arguments < 0.7 * _program(2, 1).arguments


def test_what_devices_say_in_a_loop_counts_at_every_turn():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    def repeated(x):
        return jax.lax.fori_loop(0, 5, lambda n, x: x + 0.1 * jax.lax.all_gather(x, "data").sum(), x)

    compiled = repeated.lower(jnp.zeros((2, 3))).compile()
    found = read(compiled, 1, 2).collectives["all-gather"]
    assert (found.operations, found.num_bytes) == (5, 5 * 2 * 3 * 4)
    assert found.sent == found.num_bytes / 2


# How the compiler for TPUs writes groups of devices, fused scatters and started operations.
@pytest.mark.parametrize(
    ("text", "kind", "num_bytes", "sent"),
    [
        ("%a = bf16[64,64]{1,0} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}", "all-gather", 8192, 6144),
        ("%a = f32[8]{0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add", "all-reduce", 32, 48),
        ("%a = f32[8]{0} all-reduce(%x), replica_groups={}, to_apply=%add", "all-reduce", 32, 56),
        ("%a = f32[8]{0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}", "reduce-scatter", 128, 96),
        ("%a = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8]", "all-gather", 32, 24),
        ("%a = (f32[8]{0}, f32[8]{0}, u32[]) collective-permute-start(%x)", "collective-permute", 32, 32),
        ("%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {\n %a = f32[8]{0} all-reduce(%p), replica_groups=[2,4]<=[8]\n}",
         "reduce-scatter", 32, 24),
    ],
)  # fmt: skip
def test_every_way_in_which_programs_write_an_operation_is_read(text, kind, num_bytes, sent):
    found = collectives(text, 8)
    assert set(found) == {kind}
    assert (found[kind].num_bytes, found[kind].sent) == (num_bytes, sent)


def test_a_loop_of_unknown_length_is_run_through_as_often_as_is_said():
    text = "%body (p: f32[8]) -> f32[8] {\n %a = f32[8]{0} all-reduce(%p), replica_groups={}\n}\n"
    text += "ENTRY %main (p: f32[8]) -> f32[8] {\n %w = f32[8]{0} while(%p), condition=%less, body=%body\n}\n"
    assert collectives(text, 2, turns=3)["all-reduce"].operations == 3


def _fake(monkeypatch, total, room=math.inf):
    """A compiler that says what a formula says, and refuses what does not fit."""
    tried = []

    def measured(experiment, size):
        tried.append(size)
        rest = {"traffic": 0.0, "results": 0, "aliased": 0, "temporaries": 0, "collectives": {}}
        return None if total(size) > room else Program(examples=size, arguments=total(size), **rest)

    monkeypatch.setattr(estimate, "_measured", measured)
    return tried


def test_batches_that_do_not_fit_are_halved_until_two_do(monkeypatch):
    tried = _fake(monkeypatch, lambda size: 10 + 10 * size, room=100)
    small, large = measure_two(_experiment(), (32, 64), 2)
    assert (small.examples, large.examples) == (4, 8) and max(tried) == 64
    _fake(monkeypatch, lambda size: 1000, room=100)
    with pytest.raises(UserError, match="no room for 2 examples per device"):
        measure_two(_experiment(), (32, 64), 2)


def test_batches_that_hardly_matter_are_enlarged(monkeypatch):
    _fake(monkeypatch, lambda size: 1000 + size)
    small, large = measure_two(_experiment(), (8, 16), 1)
    assert large.total >= 1.25 * small.total
    line = line_through((small.examples, small.total), (large.examples, large.total))
    assert (line.fixed, line.per_example) == (1000, 1)
