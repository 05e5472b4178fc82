"""The networks: each block against its definition, and what must hold before and after training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.models.adapters import LinenNetwork
from score_sde.models.edm2 import EDM2
from score_sde.models.layers import (
    AttentionBlock,
    GroupNorm,
    Pointwise,
    TimeEmbedding,
    positional_embedding,
)
from score_sde.models.mlp import MLP
from score_sde.models.ncsn import NCSN, NCSNv2
from score_sde.models.ncsnpp import DDPM, NCSNpp
from score_sde.objectives import TIME_SAMPLERS, score_matching_loss, variance_weighting
from score_sde.parameterization import PARAMETERIZATIONS
from score_sde.sdes import VE, VP

SMALL = {"features": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_resolutions": (4,), "dropout": 0.5}
SKIPS = {"progressive": "output_skip", "progressive_input": "input_skip", "progressive_combine": "cat", "fir": True}
RESIDUALS = {"progressive": "residual", "progressive_input": "residual", "fir": True, "resblock_type": "ddpm"}
UNET = LinenNetwork(NCSNpp(**SMALL))
NETWORKS = {
    "ncsnpp": (UNET, (8, 8, 1)),
    "ncsnpp with skips": (LinenNetwork(NCSNpp(**SMALL, **SKIPS, embedding="fourier")), (8, 8, 1)),
    "ncsnpp with residuals": (LinenNetwork(NCSNpp(**SMALL, **RESIDUALS, rescale_input=True)), (8, 8, 1)),
    # Groups of one channel, DDPM's at this width, would normalize the noise embedding away.
    "ddpm": (LinenNetwork(DDPM(**SMALL, attention_every_block=True, min_group_channels=4)), (8, 8, 1)),
    "edm2": (LinenNetwork(EDM2(**SMALL, fourier_scale=0.25)), (8, 8, 1)),
    "mlp": (LinenNetwork(MLP(features=16, num_blocks=1, dropout=0.5)), (3,)),
}
RELATIVES = {
    **NETWORKS,
    "ncsn": (LinenNetwork(NCSN(features=8)), (8, 8, 1)),
    "ncsnv2": (LinenNetwork(NCSNv2(features=8)), (8, 8, 1)),
}


def _jit(function, **kwargs):
    """Compiled in a hurry: these programs run once or twice."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **kwargs)


def _init(net, shape):
    return _jit(net.init, static_argnums=1)(jax.random.key(0), (1, *shape))


def _normal(seed, *shape):
    """Standard normal numbers from NumPy: JAX would compile a program for every shape."""
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def _randomized(params):
    """Parameters as if trained, for given shapes: no weight is zero, and activations keep their size."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten(
        [_normal(seed, *p.shape) / np.sqrt(max(np.prod(p.shape[:-1]), 1)) for seed, p in enumerate(leaves)]
    )


def _trained(net, shape):
    return _randomized(jax.eval_shape(lambda: net.init(jax.random.key(0), (1, *shape))))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A jitted network with randomized parameters and a batch of inputs."""
    net, shape = NETWORKS[request.param]
    params = _trained(net, shape)
    x = _normal(1, 3, *shape)
    apply = _jit(lambda x, condition, key=None: net.apply(params, x, condition, key=key))
    fourier = getattr(net.module, "embedding", "") == "fourier"
    return apply, x, jnp.array([-2.0, 0.3, 3.0]) if fourier else jnp.array([10.0, 200.0, 900.0])


@pytest.mark.sweep
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (16, 4), (128, 32), (144, 24), (192, 32)])
def test_group_norm_equals_that_of_flax(channels, groups):
    x = 3.0 + 2.0 * _normal(0, 2, 4, 6, channels)
    reference = nn.GroupNorm(num_groups=groups, epsilon=1e-6)
    params = _randomized(reference.init(jax.random.key(1), x)["params"])
    np.testing.assert_allclose(
        GroupNorm().apply({"params": params}, x), reference.apply({"params": params}, x), rtol=1e-5, atol=1e-5
    )


def test_pointwise_equals_a_convolution_of_one_pixel():
    x = _normal(0, 2, 4, 6, 5)
    params = _randomized(Pointwise(7).init(jax.random.key(1), x)["params"])
    dense = params["Dense_0"]
    convolution = {"kernel": dense["kernel"][None, None], "bias": dense["bias"]}
    np.testing.assert_allclose(
        Pointwise(7).apply({"params": params}, x),
        nn.Conv(7, (1, 1)).apply({"params": convolution}, x),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_positional_embedding_has_the_published_frequencies():
    embedding = np.asarray(positional_embedding(jnp.array([0.0, 1.0, 999.0]), 128))
    frequencies = np.exp(-np.log(10_000.0) * np.arange(64) / 63)
    np.testing.assert_allclose(frequencies[[1, 63]], [0.86398845, 1e-4], rtol=1e-6)
    np.testing.assert_allclose(embedding[1], np.concatenate([np.sin(frequencies), np.cos(frequencies)]), atol=1e-6)
    np.testing.assert_allclose(embedding[0], np.repeat([0.0, 1.0], 64))
    np.testing.assert_allclose(embedding[1, [0, 64]], [0.841471, 0.540302], atol=1e-6)
    np.testing.assert_allclose(embedding[2, 63], 0.099734, atol=1e-5)


def test_fourier_frequencies_are_drawn_with_their_scale_and_are_not_trained():
    module = TimeEmbedding(256, "fourier", nn.swish, 16.0)
    condition = jnp.array([0.1, 0.7])
    params = module.init(jax.random.key(0), condition)["params"]
    grads = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, condition) ** 2))(params)
    frequencies, gradient = params["FourierEmbedding_0"]["W"], grads["FourierEmbedding_0"]["W"]
    assert 13.0 < float(jnp.std(frequencies)) < 19.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_attention_does_not_know_where_a_pixel_lies():
    x = _normal(0, 2, 3, 4, 8)
    block = AttentionBlock()
    params = _randomized(block.init(jax.random.key(1), x)["params"])
    order = np.random.RandomState(0).permutation(12)

    def shuffle(images):
        return images.reshape(2, 12, 8)[:, order].reshape(images.shape)

    direct = shuffle(block.apply({"params": params}, x))
    np.testing.assert_allclose(block.apply({"params": params}, shuffle(x)), direct, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(direct - shuffle(x) / np.sqrt(2.0)).max()) > 0.1  # it does something


def test_attention_is_a_softmax_over_all_pixels():
    x = 2.0 * _normal(0, 2, 3, 4, 8)
    block = AttentionBlock(skip_rescale=False)
    params = _randomized(block.init(jax.random.key(1), x)["params"])
    params["GroupNorm_0"] = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    grouped = np.asarray(x, np.float64).reshape(2, 12, 2, 4)
    centered = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    h = (centered / np.sqrt((centered**2).mean(axis=(1, 3), keepdims=True) + 1e-6)).reshape(2, 12, 8)

    def dense(h, index):
        weights = params[f"Pointwise_{index}"]["Dense_0"]
        return h @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights["bias"])

    query, key, value = (dense(h, index) for index in range(3))
    out = np.zeros_like(value)
    for image, pixel in np.ndindex(2, 12):
        weights = np.exp([query[image, pixel] @ key[image, other] / np.sqrt(8.0) for other in range(12)])
        out[image, pixel] = weights @ value[image] / weights.sum()
    expected = np.asarray(x) + dense(out, 3).reshape(x.shape)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_an_untrained_network_predicts_almost_zero(name):
    net, shape = NETWORKS[name]
    params = _init(net, shape)
    x = 3.0 * _normal(1, 4, *shape)
    assert float(jnp.abs(_jit(net.apply)(params, x, jnp.full(4, 500.0))).max()) < 1e-3


@pytest.mark.sweep
@pytest.mark.parametrize(("sde", "reduce_mean"), [(VP(), True), (VE(), False)], ids=["VP", "VE"])
@pytest.mark.parametrize(("name", "count"), [("mlp", 20_000), ("ncsnpp", 500)])
def test_the_loss_of_an_untrained_network_is_that_of_predicting_no_noise(name, count, sde, reduce_mean):
    # E |z|^2: 1 as a mean over the event, d / 2 as half the sum.
    net, shape = NETWORKS[name]
    dim = int(np.prod(shape))
    loss_fn = score_matching_loss(
        sde,
        net,
        PARAMETERIZATIONS["noise"](),
        times=TIME_SAMPLERS["uniform"](t0=1e-5),
        weighting=variance_weighting,
        reduce_mean=reduce_mean,
    )
    params = _init(net, shape)
    losses = _jit(lambda p, x: loss_fn(p, jax.random.key(1), x, train=False))(params, _normal(2, count, *shape))
    expected = 1.0 if reduce_mean else dim / 2.0
    np.testing.assert_allclose(losses.mean(), expected, atol=4.0 * expected * np.sqrt(2.0 / dim / count))


@pytest.mark.slow
def test_dropout_is_on_only_with_a_key_and_only_then_random(network):
    apply, x, condition = network
    clean, again = apply(x, condition), apply(x, condition)
    one, other = (apply(x, condition, jax.random.key(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(clean, again)
    np.testing.assert_array_equal(one, apply(x, condition, jax.random.key(1)))
    assert float(jnp.abs(one - clean).max()) > 1e-3
    assert float(jnp.abs(one - other).max()) > 1e-3


@pytest.mark.slow
def test_an_example_does_not_depend_on_the_others_in_its_batch(network):
    apply, x, condition = network
    whole = apply(x, condition)
    changed = apply(x.at[1:].set(5.0), condition.at[1:].set(1.0))
    np.testing.assert_array_equal(changed[0], whole[0])
    assert float(jnp.abs(changed[1:] - whole[1:]).max()) > 1e-2


@pytest.mark.sweep
def test_the_output_depends_on_the_noise_condition(network):
    apply, x, condition = network
    assert float(jnp.abs(apply(x, condition) - apply(x, condition[::-1])).max()) > 1e-3


@pytest.mark.slow
def test_every_weight_of_the_network_reaches_the_output():
    for net, shape in NETWORKS.values():
        params = _trained(net, shape)
        x = _normal(1, 2, *shape)
        grads = _jit(jax.grad(lambda p, net=net, x=x: jnp.sum(net.apply(p, x, jnp.array([3.0, 700.0])) ** 2)))(params)
        paths = [(jax.tree_util.keystr(path), g) for path, g in jax.tree.leaves_with_path(grads)]
        assert all(np.all(np.isfinite(g)) for _, g in paths)
        assert not [path for path, g in paths if not np.any(g) and "Fourier" not in path]


@pytest.fixture(scope="module")
def labelled():
    net = LinenNetwork(NCSNpp(**SMALL, num_classes=3))
    return net, _trained(net, (8, 8, 1)), _normal(1, 3, 8, 8, 1), jnp.array([10.0, 200.0, 900.0])


@pytest.mark.slow
def test_a_class_conditional_network_listens_to_the_class_and_knows_no_class(labelled):
    net, params, x, condition = labelled
    apply = _jit(lambda label=None: net.apply(params, x, condition, label=label))
    none, mixed = apply(), apply(jnp.array([-1, 0, 2]))
    np.testing.assert_allclose(apply(jnp.array([-1, -1, -1])), none, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed[0], none[0], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(mixed[1] - none[1]).max()) > 1e-3
    assert float(jnp.abs(mixed[2] - apply(jnp.array([-1, 0, 1]))[2]).max()) > 1e-3


def test_labels_that_are_no_class_are_refused_and_where_traced_give_no_number(labelled):
    net, params, x, condition = labelled
    for label in ([0, 3, 1], [-2, 0, 1]):
        with pytest.raises(UserError, match="0 to 2"):
            net.apply(params, x, condition, label=jnp.array(label))
        output = _jit(lambda label: net.apply(params, x, condition, label=label))(jnp.array(label))
        bad = [index for index, value in enumerate(label) if not -1 <= value < 3]
        assert [index for index in range(3) if np.isnan(output[index]).any()] == bad
    with pytest.raises(UserError, match="no classes"):
        UNET.apply({}, x, condition, label=jnp.array([0, 1, 2]))


@pytest.mark.slow
def test_rematerialisation_changes_neither_parameters_nor_gradients_and_stores_less():
    x, condition = _normal(1, 4, 8, 8, 1), jnp.linspace(1.0, 900.0, 4)
    found = []
    for remat in (False, True):
        net = LinenNetwork(NCSNpp(**SMALL, remat=remat))
        params = _trained(net, (8, 8, 1))

        def loss(p, net=net):
            return jnp.mean(net.apply(p, x, condition, key=jax.random.key(3)) ** 2)

        # What the forward pass hands to the backward pass are the leaves of the latter.
        stored = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(stored))
        found.append((params, _jit(jax.grad(loss))(params), size))
    (params, plain, stored), (same, again, stored_again) = found
    jax.tree.map(np.testing.assert_array_equal, params, same)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain, again)
    assert stored_again < 0.6 * stored


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RELATIVES if name != "mlp"])
def test_bfloat16_stays_close_to_float32_and_gives_float32_gradients(name):
    net, shape = RELATIVES[name]
    params, x = _trained(net, shape), _normal(1, 3, *shape)
    half = LinenNetwork(net.module, "bfloat16")
    exact, rough = (_jit(lambda n=n: n.apply(params, x, jnp.array([0.5, 1.0, 3.0])))() for n in (net, half))
    assert rough.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(rough - exact).max() / jnp.abs(exact).max()) < 6e-2
    grads = jax.eval_shape(jax.grad(lambda p: jnp.sum(half.apply(p, x, jnp.ones(3)))), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
