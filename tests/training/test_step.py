"""What one step of training does, and that nothing but state and batch decides it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from score_sde.config import default_config
from score_sde.distributed import AXES, batch_sharding, check_batch, jit_step, make_mesh, replicated
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields.training import Optim, Training
from score_sde.state import TrainState
from score_sde.training.optim import make_optimizer
from score_sde.training.step import ema_rate_at, make_train_step, part_of, repeat_step, steps_per_dispatch, update_ema
from score_sde.typing import Loss


@pytest.fixture(scope="module")
def experiment():
    config = default_config()
    config.data.name = "toy:gaussians"
    config.model.name = "mlp"
    config.model.features, config.model.num_blocks = 16, 1
    config.optim.warmup = 0
    return Experiment.from_config(config, (2,), None)


@pytest.fixture(scope="module")
def initial(experiment):
    return jax.device_get(jax.jit(experiment.init_state)())


def _fresh(state):
    """A copy that a donating program may consume."""
    return jax.tree.map(jnp.array, state)


def _batches(count, size=8):
    return np.random.RandomState(0).standard_normal((count, size, 2)).astype(np.float32)


def _run(step, state, batches):
    losses = []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    return state, np.stack(losses)


def _assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), _plain(a), _plain(b))


def _plain(state):
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, jax.device_get(state)
    )


def test_a_whole_run_compiles_its_step_once(experiment, initial):
    traces = 0

    def counted(state, batch):
        nonlocal traces
        traces += 1
        return experiment.train_step(state, batch)

    mesh = make_mesh()
    step = jit_step(counted, mesh, replicated(mesh))
    state = jax.device_put(_fresh(initial), replicated(mesh))
    state, losses = _run(step, state, _batches(10))
    assert traces == 1
    assert int(state.step) == 10 and len(set(losses.tolist())) == 10


@pytest.mark.slow
def test_three_steps_in_one_dispatch_equal_three_steps(experiment, initial):
    batches = _batches(3)
    single, losses = _run(jax.jit(experiment.train_step), _fresh(initial), batches)
    together, metrics = jax.jit(repeat_step(experiment.train_step))(_fresh(initial), batches)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    _assert_close(together, single, rtol=1e-5, atol=1e-7)


def test_one_and_two_devices_train_alike(experiment, initial):
    assert jax.device_count() >= 2
    results = []
    for count in (1, 2):
        mesh = Mesh(np.array(jax.devices()[:count]).reshape(count, 1), AXES, axis_types=(AxisType.Auto,) * 2)
        state = jax.device_put(_fresh(initial), replicated(mesh))
        step = Experiment.from_config(experiment.settings, (2,), None, mesh=mesh).train_step
        state, losses = _run(jit_step(step, mesh, replicated(mesh)), state, _batches(5))
        assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == count
        results.append((state, losses))
    (alone, losses_alone), (shared, losses_shared) = results
    np.testing.assert_allclose(losses_shared, losses_alone, rtol=1e-5)
    _assert_close(shared.params, alone.params, rtol=0.0, atol=1e-5)


def test_a_batch_is_split_over_the_devices_in_order():
    mesh = make_mesh()
    array = jax.device_put(jnp.arange(4.0), batch_sharding(mesh))
    shards = sorted(array.addressable_shards, key=lambda shard: shard.device.id)
    np.testing.assert_array_equal(np.concatenate([shard.data for shard in shards]), np.arange(4.0))
    assert {shard.data.shape for shard in shards} == {(4 // jax.device_count(),)}


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"The batch size is 7 and there are . devices; expected a multiple of"):
        check_batch(make_mesh(), 7)
    count = jax.device_count()
    with pytest.raises(UserError, match=rf"that take it in 3 parts; expected a multiple of {3 * count}, such as"):
        check_batch(make_mesh(), 4 * count, parts=3)


@pytest.mark.parametrize("shape", [{"data": 3}, {"fsdp": 3}, {"data": 0, "fsdp": 0}, {"data": -1}, {"data": 1}])
def test_a_mesh_that_the_devices_do_not_fill_is_refused(shape):
    with pytest.raises(UserError, match=r"config\.mesh is data=.*, fsdp=.* there are 2 devices; expected two numbers"):
        make_mesh(**shape)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_the_parts_of_a_gradient_make_that_of_the_batch(experiment, initial, accumulate):
    settings = experiment.settings.with_("model", dropout=0.0)
    whole = Experiment.from_config(settings, (2,), None)
    parts = Experiment.from_config(settings.with_("training", accumulate=accumulate), (2,), None)
    (a, losses_a), (b, losses_b) = (_run(jax.jit(e.train_step), _fresh(initial), _batches(3)) for e in (whole, parts))
    np.testing.assert_allclose(losses_b, losses_a, rtol=1e-6)
    _assert_close(b, a, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of programs for CPUs")
def test_all_convolutions_of_several_steps_in_parts_have_the_order_of_fast_code():
    config = default_config()
    config.data.name = "digits"
    config.model.features, config.model.channel_multipliers, config.model.num_blocks = 8, (1,), 1
    config.model.attention_resolutions = ()
    config.training.accumulate = 2
    run = Experiment.from_config(config, (8, 8, 1), 17)
    batches = jax.ShapeDtypeStruct((3, 8, 8, 8, 1), jnp.uint8)
    program = jax.jit(repeat_step(run.train_step)).lower(jax.eval_shape(run.init_state), batches)
    labels = re.findall(r"dim_labels=(\w+->\w+)", program.compile().as_text())
    assert len(labels) > 10 and set(labels) == {"b01f_01io->b01f"}


@pytest.mark.parametrize(
    ("fields", "start", "count"),
    [
        ({}, 0, 5),
        ({}, 20, 5),
        ({}, 7, 1),
        ({"num_steps": 3002}, 0, 2),
        ({"num_steps": 3}, 0, 1),
        ({"log_every": 4, "eval_every": 4, "checkpoint_every": 4}, 0, 4),
        ({"log_every": 100, "sample_every": 9}, 0, 1),
        ({"steps_per_dispatch": 10}, 30, 10),
        ({"steps_per_dispatch": 10}, 3000, 10),
        ({"steps_per_dispatch": 1}, 7, 1),
    ],
)
def test_a_call_on_a_cpu_makes_a_few_steps_that_fit_all_intervals(fields, start, count):
    given = default_config().training.to_dict() | {"num_steps": 3000, **fields}
    settings = Training(**{name: value for name, value in given.items() if name != "options"})
    assert steps_per_dispatch(settings, "cpu", start) == count
    assert steps_per_dispatch(settings, "tpu", start) == (settings.steps_per_dispatch or 1)


def test_calls_that_would_miss_the_end_are_refused():
    with pytest.raises(UserError, match=r"goes on from step 15 .* is 10; expected a divisor of 15, such as 5, or 0"):
        steps_per_dispatch(Training(num_steps=100, steps_per_dispatch=10), "cpu", 15)


def test_the_parts_of_a_batch_are_all_of_it():
    batch = {"x": jnp.arange(12.0).reshape(6, 2), "t": jnp.arange(6)}
    parts = [part_of(batch, index, 3) for index in range(3)]
    for name, whole in batch.items():
        together = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(np.sort(together, axis=0), whole)


def test_the_random_numbers_of_a_step_depend_on_the_key_and_the_step_alone(initial, experiment):
    step, batch = jax.jit(experiment.train_step), _batches(1)[0]
    state = _fresh(initial)

    def loss(number=0, key=state.key):
        at = TrainState(
            step=jnp.asarray(number, jnp.int32),
            params=state.params,
            ema_params=state.ema_params,
            opt_state=state.opt_state,
            key=key,
        )
        after, metrics = step(at, batch)
        np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(key))  # none travels
        return float(metrics["loss"])

    assert loss() == loss()
    assert len({loss(0), loss(1), loss(2), loss(0, jax.random.key(5))}) == 4


def _linear_step(tx, **kwargs):
    """A step on the loss ``sum(params * batch)``, whose gradient is the batch itself."""

    loss = Loss(lambda key, batch: ((), key), lambda params, batch, draws, dropout_key: batch @ params)
    step = make_train_step(loss, tx, prepare=lambda key, batch: batch, **kwargs)
    params = jnp.array([1.0, -2.0])
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=params,
        opt_state=tx.init(params),
        key=jax.random.key(0),
    )
    return jax.jit(step), state


def test_the_moving_average_has_its_closed_form():
    # Plain descent on a linear loss: p_n = p_0 - n lr g, so ema_n = r^n p_0 + (1 - r) sum_i r^(n - i) p_i.
    rate, lr, count, gradient = 0.9, 0.1, 7, np.array([0.5, 1.0])
    step, state = _linear_step(optax.sgd(lr), ema_rate=rate)
    for _ in range(count):
        state, metrics = step(state, jnp.asarray(gradient[None], jnp.float32))
    p0 = np.array([1.0, -2.0])
    path = [p0 - n * lr * gradient for n in range(count + 1)]
    average = rate**count * p0 + (1 - rate) * sum(rate ** (count - n) * path[n] for n in range(1, count + 1))
    np.testing.assert_allclose(state.params, path[-1], rtol=1e-6)
    np.testing.assert_allclose(state.ema_params, average, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(1.25), rtol=1e-6)


def test_the_average_of_constant_parameters_is_theirs():
    params = {"a": jnp.array([1.0, 2.0])}
    _assert_close(update_ema(params, params, 0.999), params, rtol=1e-6)


def test_the_rate_of_the_average_warms_up_from_a_tenth():
    rates = [float(ema_rate_at(jnp.asarray(n), 0.999, warmup=True)) for n in (0, 8, 90, 1_000_000)]
    np.testing.assert_allclose(rates, [0.1, 0.5, 0.91, 0.999], rtol=1e-6)
    assert ema_rate_at(jnp.asarray(0), 0.999, warmup=False) == 0.999


def _update_sizes(count, gradient=1.0, num_steps=1000, **kwargs):
    """Sizes of the updates under a constant gradient: Adam's are then the learning rate of each step."""
    tx = make_optimizer(Optim(eps=1e-12, **kwargs), num_steps=num_steps)
    params = jnp.zeros(1)
    update = jax.jit(tx.update)
    state, sizes = tx.init(params), []
    for _ in range(count):
        updates, state = update(jnp.full(1, gradient), state, params)
        sizes.append(-float(updates[0]))
    return np.array(sizes)


def test_the_learning_rate_rises_linearly_from_zero_and_stays():
    sizes = _update_sizes(14, lr=0.5, warmup=10)
    np.testing.assert_allclose(sizes, 0.5 * np.minimum(np.arange(14) / 10.0, 1.0), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(_update_sizes(3, lr=0.5, warmup=0), 0.5, rtol=1e-4)


def test_the_cosine_falls_from_the_full_rate_after_warm_up_to_zero_at_the_end():
    sizes = _update_sizes(22, lr=0.5, warmup=10, schedule="cosine", num_steps=20)
    expected = 0.25 * (1.0 + np.cos(np.pi * np.arange(11) / 10.0))
    np.testing.assert_allclose(sizes[10:21], expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(sizes[21], 0.0, atol=1e-8)


def test_the_inverse_root_falls_from_its_step_on_whenever_the_warm_up_ends():
    n = np.arange(1, 200)
    for warmup in (0, 1, 10, 40, 80):
        sizes = _update_sizes(200, lr=0.5, warmup=warmup, schedule="inverse_sqrt", decay_after=40)[1:]
        rising, falling = np.minimum(n / max(warmup, 1), 1.0), np.minimum(max(40, warmup) / n, 1.0) ** 0.5
        np.testing.assert_allclose(sizes, 0.5 * rising * falling, rtol=1e-4)


def test_clipping_caps_the_global_norm_and_keeps_the_direction():
    # After one update Adam's first moment is (1 - beta1) times the gradient it was given.
    grads, params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, {"a": jnp.zeros(1), "b": jnp.zeros(1)}

    def seen(grad_clip, scale=1.0):
        tx = make_optimizer(Optim(grad_clip=grad_clip, beta1=0.0))
        _, state = tx.update(jax.tree.map(lambda g: scale * g, grads), tx.init(params), params)
        moments = [s.mu for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
        return [float(moments[0]["a"][0]), float(moments[0]["b"][0])]

    np.testing.assert_allclose(seen(1.0), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(seen(1.0, scale=0.1), [0.3, 0.4], rtol=1e-6)  # below the bound nothing happens
    np.testing.assert_allclose(seen(0.0), [3.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(seen(-1.0), [3.0, 4.0], rtol=1e-6)


def test_weight_decay_pulls_parameters_to_zero_apart_from_the_gradient():
    tx = make_optimizer(Optim(lr=0.1, warmup=0, weight_decay=0.5))
    params = jnp.array([2.0])
    updates, _ = tx.update(jnp.zeros(1), tx.init(params), params)
    np.testing.assert_allclose(updates, [-0.1 * 0.5 * 2.0], rtol=1e-6)
