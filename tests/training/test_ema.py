"""Averages of parameters: what is tracked, and what snapshots of two widths tell about all others."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from score_sde.config import default_config
from score_sde.distributed import make_mesh
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields.training import Optim
from score_sde.training.ema import (
    exponent_to_width,
    power_averages,
    reconstruct,
    reconstruction_error,
    reconstruction_weights,
    track_power_averages,
    width_to_exponent,
)
from score_sde.training.optim import make_optimizer

TRACKED = (0.05, 0.10)
OTHERS = (0.03, 0.075, 0.15, 0.20, 0.25)


def _density(tau, t, width):
    """The weight per step at ``tau`` of the average at ``t``, up to a factor that makes its integral 1."""
    inside = np.where(tau <= t, tau / t, 0.0) ** width_to_exponent(width)
    return inside / inside.sum()


@pytest.mark.parametrize("width", [0.001, 0.02, 0.05, 0.10, 0.20, 0.28])
def test_the_relative_width_is_the_standard_deviation_of_the_density(width):
    tau = (np.arange(400_000) + 0.5) / 400_000
    density = _density(tau, 1.0, width)
    variance = density @ tau**2 - (density @ tau) ** 2
    np.testing.assert_allclose(np.sqrt(variance), width, rtol=1e-4)
    np.testing.assert_allclose(exponent_to_width(width_to_exponent(width)), width, rtol=1e-12)


def _follow(tx, params, updates):
    """The parameters after every update, and the last state."""
    update = jax.jit(lambda updates, state, params: tx.update(updates, state, params))
    state, path = tx.init(params), []
    for one in updates:
        passed, state = update(one, state, params)
        np.testing.assert_array_equal(passed, one)
        params = optax.apply_updates(params, passed)
        path.append(params)
    return np.stack(path), state


def test_a_tracked_average_is_the_weighted_sum_of_the_trajectory():
    # In a trajectory that is constant during each step, step tau has the integral of the density from tau - 1 to tau.
    widths, count = (0.03, 0.10, 0.28), 120
    with jax.enable_x64(True):
        updates = np.random.RandomState(0).standard_normal((count, 5))
        path, state = _follow(track_power_averages(widths), jnp.full(5, 100.0), updates)
        averages = jax.device_get(power_averages(state))
    assert tuple(averages) == widths
    edges = np.arange(count + 1) / count
    for width, average in averages.items():
        weights = np.diff(edges ** (width_to_exponent(width) + 1.0))
        np.testing.assert_allclose(average, weights @ path, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step", [1, 2, 1000, 1_000_000])
def test_the_rate_of_an_average_keeps_its_digits_in_float32(step):
    tx = track_power_averages((0.05,))
    state = tx.init(jnp.zeros(1))
    late = jax.tree.unflatten(jax.tree.structure(state), [jnp.asarray(step - 1, jnp.int32), jnp.zeros(1)])
    _, state = tx.update(jnp.zeros(1), late, jnp.ones(1))
    rate = -np.expm1((width_to_exponent(0.05) + 1.0) * np.log1p(-1.0 / step)) if step > 1 else 1.0
    np.testing.assert_allclose(power_averages(state)[0.05], [rate], rtol=1e-6)


def test_the_averages_of_constant_parameters_are_theirs_to_the_last_bit():
    params = jnp.asarray(np.random.RandomState(0).standard_normal(1000), jnp.float32)
    _, state = _follow(track_power_averages(TRACKED), params, np.zeros((50, 1000), np.float32))
    for average in power_averages(state).values():
        np.testing.assert_array_equal(average, params)


def _regression(widths, *, steps=2000, every=25):
    """A small network fitted to noisy data by Adam; parameters and averages after every ``every`` steps."""
    tx = make_optimizer(Optim(lr=3e-3, warmup=100, ema_widths=widths))

    def loss(params, key):
        x_key, noise_key = jax.random.split(key)
        x = jax.random.normal(x_key, (32, 2))
        y = jnp.sin(3.0 * x[:, :1]) * x[:, 1:] + 0.3 * jax.random.normal(noise_key, (32, 1))
        hidden = jnp.tanh(x @ params["in"] + params["shift"][None])
        return jnp.mean((jnp.tanh(hidden @ params["middle"]) @ params["out"] - y) ** 2)

    def step(carry, number):
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.fold_in(jax.random.key(1), number))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"in": (2, 24), "middle": (24, 24), "out": (24, 1)}
    params = {
        name: jax.random.normal(k, shape) / shape[0] ** 0.5
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    params["shift"] = jnp.zeros(24)
    run = jax.jit(lambda carry, start: jax.lax.scan(step, carry, start + jnp.arange(every))[0])
    carry, records = (params, tx.init(params)), {}
    for start in range(0, steps, every):
        carry = run(carry, start)
        records[start + every] = jax.device_get((carry[0], power_averages(carry[1])))
    return records


@pytest.fixture(scope="module")
def records():
    return _regression(TRACKED + OTHERS)


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def reconstruction_errors(records, width, at, every):
    """Errors of an average from snapshots at every ``every`` steps: over its norm, and over its distance to the end."""
    snapshots = [(step, tracked) for step in records if step % every == 0 for tracked in TRACKED]
    steps, widths = zip(*snapshots, strict=True)
    weights = reconstruction_weights(steps, widths, target_width=width, target_time=at)
    trees = (records[step][1][tracked] for step, tracked in snapshots)
    params, direct = records[at][0], _flat(records[at][1][width])
    error = np.linalg.norm(_flat(reconstruct(zip(weights, trees, strict=True))) - direct)
    return error / np.linalg.norm(direct), error / np.linalg.norm(direct - _flat(params))


@pytest.mark.parametrize("at", [2000, 1475], ids=["at the end", "between two snapshots"])
@pytest.mark.parametrize(("width", "share"), [*zip(OTHERS, (0.05, 0.01, 0.002, 0.005, 0.03), strict=True)])
def test_snapshots_of_two_widths_tell_the_averages_of_others(records, width, share, at):
    relative, of_distance = reconstruction_errors(records, width, at, every=50)
    assert relative < (0.005 if width > 0.2 else 0.0005)
    assert of_distance < share


def test_tracking_leaves_training_as_it_is(records):
    alone = _regression(())
    assert alone[2000][1] == {}
    for step in (25, 2000):
        jax.tree.map(np.testing.assert_array_equal, alone[step][0], records[step][0])


def test_without_widths_the_state_of_the_optimizer_is_that_of_adam():
    params = {"a": jnp.zeros(3)}
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda count: 1e-3)).init(params)
    assert jax.tree.structure(make_optimizer().init(params)) == jax.tree.structure(clipped)
    tracked = make_optimizer(Optim(ema_widths=TRACKED)).init(params)
    assert len(jax.tree.leaves(tracked)) == len(jax.tree.leaves(clipped)) + 1 + len(TRACKED)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_averages_are_found_in_chained_wrapped_and_abstract_states(grad_clip):
    params = {"a": jnp.ones((2, 3)), "b": jnp.zeros(4)}
    tx = optax.MultiSteps(make_optimizer(Optim(warmup=0, grad_clip=grad_clip, ema_widths=TRACKED)), every_k_schedule=2)
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params)
    shapes = power_averages(jax.eval_shape(tx.init, params))
    places = power_averages(jax.tree.map(lambda leaf: leaf.sharding, state))
    assert tuple(power_averages(state)) == tuple(shapes) == tuple(places) == TRACKED
    for width in TRACKED:
        assert jax.tree.map(jnp.shape, power_averages(state)[width]) == jax.tree.map(jnp.shape, params)
        assert shapes[width] == jax.eval_shape(lambda: params)
        assert {leaf.num_devices for leaf in jax.tree.leaves(places[width])} == {1}


def test_averages_stay_where_they_are_placed():
    mesh = make_mesh(data=1, fsdp=0)
    tx, params = track_power_averages(TRACKED), jnp.zeros((2 * mesh.size, 3))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    placed = jax.device_put(params, split)
    state = jax.jit(tx.init)(placed)
    _, state = jax.jit(tx.update)(placed + 1.0, state, placed)
    for average in power_averages(state).values():
        assert average.sharding.is_equivalent_to(split, 2)
        np.testing.assert_array_equal(average, params + 1.0)  # the first step forgets where it started


def test_averages_need_the_parameters():
    tx = track_power_averages(TRACKED)
    with pytest.raises(ValueError, match="call update"):
        tx.update(jnp.zeros(1), tx.init(jnp.zeros(1)))


def test_the_weights_solve_the_constrained_least_squares_of_sampled_densities():
    steps, widths, target = [500, 500, 800, 1000, 1000], [0.05, 0.10, 0.07, 0.05, 0.10], (0.15, 900)
    tau = (np.arange(200_000) + 0.5) * (1000 / 200_000)
    columns = np.stack([_density(tau, step, width) for step, width in zip(steps, widths, strict=True)], axis=1)
    wanted = _density(tau, target[1], target[0])
    # The last weight is one minus the others, which are then free.
    free = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], wanted - columns[:, -1], rcond=None)[0]
    reference = np.append(free, 1.0 - free.sum())
    keywords = {"target_width": target[0], "target_time": target[1]}
    weights = reconstruction_weights(steps, widths, **keywords)
    np.testing.assert_allclose(weights, reference, atol=1e-3)
    distance = np.linalg.norm(columns @ reference - wanted) / np.linalg.norm(wanted)
    np.testing.assert_allclose(reconstruction_error(weights, steps, widths, **keywords), distance, rtol=1e-3)


def _snapshots(count, last=1_000_000):
    steps = np.repeat(np.arange(1, count + 1) * (last // count), len(TRACKED))
    return steps, np.tile(TRACKED, count)


@pytest.mark.parametrize("count", [1, 30, 200])
def test_a_snapshot_is_reconstructed_by_itself(count):
    steps, widths = _snapshots(count)
    for index in {0, len(steps) // 3, len(steps) - 1}:
        weights = reconstruction_weights(steps, widths, target_width=widths[index], target_time=steps[index])
        np.testing.assert_allclose(weights, np.arange(len(steps)) == index, atol=1e-7)


@pytest.mark.parametrize("width", OTHERS)
def test_the_weights_keep_a_constant_and_forget_the_unit_of_time(width):
    steps, widths = _snapshots(40)
    weights = reconstruction_weights(steps, widths, target_width=width, target_time=800_000)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    scaled = reconstruction_weights(steps / 1e6, widths, target_width=width, target_time=0.8)
    np.testing.assert_allclose(scaled, weights, atol=1e-7)


@pytest.mark.parametrize("width", [0.03, 0.075, 0.15])
def test_twice_the_snapshots_leave_a_quarter_of_the_error(width):
    errors = []
    for count in (25, 50, 100):
        steps, widths = _snapshots(count)
        keywords = {"target_width": width, "target_time": 1_000_000}
        weights = reconstruction_weights(steps, widths, **keywords)
        errors.append(reconstruction_error(weights, steps, widths, **keywords))
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2.0, atol=0.15)


BAD_TARGETS = {
    "no snapshots": ([], [], 0.1, 10, "There are no snapshots of averages; train with"),
    "beyond the last": ([10, 20], [0.1, 0.1], 0.1, 21, "wanted at step 21, and the snapshots are of steps 10 to 20"),
    "before the first": ([10, 20], [0.1, 0.1], 0.1, 9, "wanted at step 9, and the snapshots are of steps 10 to 20"),
    "a snapshot twice": ([10, 20, 10], [0.1, 0.1, 0.1], 0.1, 20, "of step 10 and width 0.1 is there more than once"),
    "a snapshot of step 0": ([0, 20], [0.1, 0.1], 0.1, 20, "a snapshot of step 0; expected steps from 1"),
    "a target too wide": ([10, 20], [0.1, 0.1], 0.3, 20, "relative width of an average is 0.3; expected"),
    "a target of no width": ([10, 20], [0.1, 0.1], 0.0, 20, "relative width of an average is 0.0; expected"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_a_target_that_cannot_be_reached_is_refused(case):
    times, widths, width, time, message = BAD_TARGETS[case]
    with pytest.raises(UserError, match=message):
        reconstruction_weights(times, widths, target_width=width, target_time=time)


def test_a_sum_of_snapshots_loses_no_digits_and_keeps_types():
    # The large terms cancel; added in float32 they would leave an error of 1.
    trees = [{"a": np.full(3, value, np.float32), "b": jnp.asarray(value, jnp.bfloat16)} for value in (3.0, 1.0, 3.0)]
    total = reconstruct(zip((1e9, 1.0, -1e9 + 0.5), trees, strict=True))
    np.testing.assert_array_equal(total["a"], np.full(3, 2.5, np.float32))
    assert (total["a"].dtype, total["b"].dtype, float(total["b"])) == (np.float32, jnp.bfloat16, 2.5)


def test_a_sum_holds_one_snapshot_at_a_time():
    held = []

    def read():
        for number in range(4):
            assert all(leaf() is None for leaf in held)
            tree = {"a": np.full(5, number, np.float32)}
            held.append(weakref.ref(tree["a"]))
            yield 1.0, tree
            del tree

    np.testing.assert_array_equal(reconstruct(read())["a"], np.full(5, 6.0))


def test_snapshots_that_do_not_belong_together_are_refused():
    with pytest.raises(UserError, match="There are no snapshots"):
        reconstruct([])
    for other in ({"a": np.zeros(1, np.float32)}, {"b": np.zeros(2, np.float32)}, {"a": np.zeros(2)}):
        with pytest.raises(UserError, match="The snapshots differ in structure, shapes or types"):
            reconstruct([(0.5, {"a": np.zeros(2, np.float32)}), (0.5, other)])


def _config(**optim):
    config = default_config()
    config.data.name, config.model.name = "toy:gaussians", "mlp"
    config.model.features, config.model.num_blocks = 16, 1
    config.optim.update(optim)
    return config


def test_a_run_tracks_the_widths_of_its_configuration():
    config = _config(ema_widths=TRACKED, ema_snapshot_every=100)
    state = Experiment.from_config(config, (2,), None).abstract_state()
    for average in power_averages(state.opt_state).values():
        assert average == state.params
    assert tuple(power_averages(state.opt_state)) == TRACKED
    assert not power_averages(Experiment.from_config(_config(), (2,), None).abstract_state().opt_state)


BAD_OPTIONS = {
    "too wide": (
        {"ema_widths": (0.05, 0.3)},
        r"config.optim.ema_widths is \(0.05, 0.3\); expected a tuple of 0 to 4 different entries, each a number",
    ),
    "of no width": ({"ema_widths": (0.0,)}, r"config.optim.ema_widths is \(0.0,\); expected"),
    "no number": ({"ema_widths": ("0.1",)}, r"config.optim.ema_widths is \('0.1',\); expected"),
    "twice": ({"ema_widths": (0.1, 0.1)}, r"config.optim.ema_widths is \(0.1, 0.1\); expected"),
    "too many": (
        {"ema_widths": (0.01, 0.02, 0.03, 0.04, 0.05)},
        "config.optim.ema_widths is .*; expected a tuple of 0 to 4 different",
    ),
    "nothing to save": (
        {"ema_snapshot_every": 100},
        "there are no averages to take snapshots of; set config.optim.ema_w",
    ),
    "between log lines": (
        {"ema_widths": (0.1,), "ema_snapshot_every": 75},
        "config.optim.ema_snapshot_every is 75; expected a multiple of config.training.log_every, 50",
    ),
    "negative": ({"ema_widths": (0.1,), "ema_snapshot_every": -50}, "config.optim.ema_snapshot_every is -50; expected"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_averages_that_make_no_sense_are_refused(case):
    fields, message = BAD_OPTIONS[case]
    with pytest.raises(UserError, match=message):
        Experiment.from_config(_config(**fields), (2,), None)
