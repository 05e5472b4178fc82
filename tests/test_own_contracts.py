"""The contract of every part of a user's own: what keeps it is taken, and each broken clause is named."""

import ast
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import score_sde
from score_sde.data import load_source, source_info
from score_sde.diffusions import make_sde
from score_sde.errors import UserError
from score_sde.fields import Settings
from score_sde.fields.training import Optim
from score_sde.methods import make_grid, make_method
from score_sde.metrics.extractors import make_extractor
from score_sde.models.registry import make_network
from score_sde.objectives import UniformTimes, make_weighting, score_matching_loss, variance_weighting
from score_sde.outside.parts import Part
from score_sde.parameterization import NoisePrediction
from score_sde.quantization import Quantization
from score_sde.sdes import VP
from score_sde.training.objective import Trainees, make_loss
from score_sde.training.optim import make_optimizer
from score_sde.training.trackers import open_trackers
from score_sde.typing import Loss
from tests import own_data, own_parts, own_training

HERE = "tests.own_parts:"
DATA = "tests.own_data:"
TRAINING = "tests.own_training:"


def network(name, num_classes=0, spans=False, num_outputs=None, **options):
    fields = {**Settings().model, "name": HERE + name, "options": options, "num_classes": num_classes, "spans": spans}
    return make_network(fields, (2,), num_scales=10, centered=True, num_outputs=num_outputs)


def loss(**fields):
    settings = Settings().with_("model", name=HERE + "Linen").with_("objective", **fields)
    trainees = Trainees.of_score(network("Linen"), "small")
    return make_loss(settings, VP(), trainees, NoisePrediction(), Quantization(num_grey_levels=None), (2,))


def grid(name, **options):
    settings = Settings().with_("sampling", grid=HERE + name, options=options)
    return make_grid(settings, VP(), grid=HERE + name, num_steps=8, t_end=0.01)


def extractor(name, shape=(4, 4, 1), num_levels=256, **options):
    return make_extractor(DATA + name, shape=shape, num_levels=num_levels, options=options)


def method(**fields):
    return make_method(Settings().with_("sampling", **fields).sampling)


#: By the maker of a kind of part: the names of parts that break a clause, and the clause.
BROKEN = {
    network: {
        "changes_shape": r"returns shape \(2, 1\) for data of shape \(2, 2\); expected the shape of the data",
        "trains_another_shape": r"returns shape \(2, 1\) in training for data of shape \(2, 2\); expected the same",
        "changes_type": "returns float16 for data of float32; expected float32",
        "counts_calls": "computes something else for the same arguments the second time",
        "draws_with_numpy": "draws other parameters from the same key the second time; expected a function of its",
        "returns_nan": "returns numbers that are not finite, with its initial parameters",
        "mixes_examples": "gives an example another output when the other examples of its batch change",
        "has_no_parameters": "has parameters of nothing; expected floating-point arrays, one at least",
        "has_whole_parameters": "has parameters of int32; expected floating-point arrays",
        "raises": r"fails in .*own_parts.py, line \d+: \w+Error",
        "takes_too_much": r"fails.*missing 1 required positional argument: 'more'",
        "drawn": "makes a Linear whose parameters are drawn already; expected .* rngs .NNX. or key .Equinox.",
        "LinenBatchNorm": "has state besides its parameters, in the collection batch_stats.*GroupNorm and LayerNorm",
        "NNXBatchNorm": "has state besides its parameters, norm.mean of type BatchStat",
        "EquinoxBatchNorm": "holds state at .*norm.*GroupNorm and LayerNorm have no state",
        "EquinoxCounter": "holds an array of type int32 at .*count.*constants as NumPy arrays",
        "CALLS": "is, or makes, a list; expected a Linen module, an NNX module",
    },
    lambda name: network(name, spans=True): {
        "Linen": "takes no argument 'span', the time between two times.*expected a network that takes it",
        "functions": "takes no argument 'span'",
        "NeedsSpan": r"fails.*missing 1 required positional argument: 'span'",
    },
    lambda name: network(name, num_outputs=5): {
        "Linen": r"returns shape \(2, 2\) for data of shape \(2, 2\); expected \(2, 2, 5\), a logit for each of 5 gray",
    },
    lambda name: make_sde(Settings().with_("sde", name=HERE + name)): {
        "WrongMoments": r"breaks the moment equation \(s\^2\)' = 2 f s\^2 \+ g\^2 at t = .*: the left side",
        "WrongMean": "breaks the moment equation m' = f m at t = ",
        "ScalarMarginal": r"has mean_coeff of shape \(\) and type float32 for times of shape \(3,\)",
        "HalfMarginal": r"has std of shape \(\) and type float16",
        "CountingMarginal": "has other coefficients at the same times the second time",
        "InfiniteDiffusion": "has diffusion that is not finite at t = 1; expected finite coefficients",
        "NegativeDiffusion": "has diffusion -1.41.*; expected 0 or more",
        "NoNoise": "has std = 0 at t = .*; expected one above 0",
        "DenoisingMarginal": "is no process to which noise is added; expected one whose log-SNR falls",
        "WrongPrior": "has prior_std 50 and std 1 at t = 1",
        "negative": r"own_parts:negative: From t = 0.599.* the log-SNR.* g\^2 / s\^2 = -",
        "no_process": "makes a int; expected an SDE, such as",
    },
    lambda name: method(predictor=HERE + name): {
        "NoEvals": "has num_evals = 1.5; expected a whole number",
        "ChangesShape": r"returns x of \(2, 1\) of type float32 for x of \(2, 4\)",
        "ReturnsNan": "returns x that is not finite, from t = 0.5 to 0.4",
        "GrowsMemory": r"returns a state of another structure than its init\(x\)",
        "CountsSteps": "takes another step for the same arguments the second time",
        "FollowsNothing": "Unknown word for what a solver follows 'nothing'",
        "no_solver": r"makes a str; expected an object with num_evals, init\(x\) and step",
    },
    lambda name: method(corrector=HERE + name): {"ReturnsNan": "returns x that is not finite, from t = 0.5 to 0.5"},
    grid: {
        "one_time_less": r"returns times of shape \(8,\) for 8 steps; expected the shape \(9,\)",
        "CALLS": "is a list; expected a function or a class",
        "rises": "rises: Times 0 and 1 of the grid are 0.01 .* decrease strictly",
        "begins_late": "begins at 0.9; expected 1, the time of the prior",
    },
    lambda name: loss(times=HERE + name): {
        "one_time": r"draws \(\(1,\), \(1,\)\) for n = 64; expected TimeSamples",
        "late_times": "draws times from 2 to 2; expected times from 0 to 1",
        "no_weights": "draws weights from 0 to 0; expected finite weights above 0",
        "counted_times": "draws other times from the same key the second time",
        "no_solver": "makes a str; expected an object with sample",
    },
    lambda name: loss(weighting=HERE + name): {
        "one_weight": r"gives weights of shape \(\) for times of \(32,\)",
        "negative_weight": "gives weights from -1 to -0.01; expected finite weights, 0 or more",
        "nan_weight": "gives weights from nan to nan",
        "counted_weight": "gives other weights for the same times the second time",
    },
    lambda name: loss(kind=TRAINING + name): {
        "mean_loss": r"has losses of \(\(\), 'float32'\) for data of shape \(4, 2\); expected one loss for each",
        "counted_loss": "computes another loss for the same arguments the second time",
        "no_loss": "makes a float; expected a score_sde.typing.Loss",
    },
    lambda name: make_optimizer(Optim(name=TRAINING + name)): {
        "no_rate": "takes no learning_rate, but momentum; expected an optimizer that follows the schedule",
        "no_optimizer": "expected an optax.GradientTransformation",
        "nan_updates": "makes updates that are not finite",
        "scalar_updates": "changes the shapes of the parameters",
        "counted_updates": "makes other updates from the same gradients the second time",
    },
    lambda name: load_source(DATA + name, "train"): {
        "nan_points": "own_data:nan_points: 'x' contains NaN or infinity, expected finite numbers",
        "flat_points": r"'x' is float64 of shape \(40,\), expected uint8 images",
        "words": "'x' is <U1 of shape",
        "no_arrays": "returns NoneType; expected an array of examples",
        "WrongSource": r"gathers float32 of shape \(2, 2\) for 2 examples, and its info has shape \(3,\)",
        "NanSource": "has examples that are not finite",
        "CountingSource": "gathers other examples at the same indices the second time",
        "UnlabeledSource": r"has labels None at \[ *0 39\], and its info has 3 classes",
        "EmptySource": "has no examples; expected one at least",
    },
    lambda name: open_trackers([TRAINING + name], {}, Path("run"), {}): {
        "no_writer": "makes a float without write, truncate, flush, close; expected a Writer",
    },
    extractor: {
        "flat_features": r"gives features of shape \(2,\) for 2 examples",
        "nan_features": "gives features that are not finite",
        "counted_features": "gives other features for the same examples the second time",
        "no_extractor": "makes a tuple; expected an Extractor, or a function of images",
    },
}
CASES = [(make, name, said) for make, clauses in BROKEN.items() for name, said in clauses.items()]


@pytest.mark.parametrize(("make", "name", "said"), CASES, ids=[name for _, name, _ in CASES])
def test_a_part_that_breaks_a_clause_is_refused_by_that_clause(make, name, said):
    with pytest.raises(UserError, match=said) as raised:
        make(name)
    named = next(f"{module.__name__}:{name}" for module in (own_parts, own_training, own_data) if name in vars(module))
    assert str(raised.value).startswith(named) and str(raised.value).count(named) == 1


@pytest.mark.slow
def test_every_clause_of_every_contract_is_broken_by_some_part(monkeypatch):
    """Every place of the package that refuses a part is reached."""
    reached, refused = set(), Part.refused

    def recorded(self, *sentence):
        caller = sys._getframe(1)
        reached.add((caller.f_code.co_filename, caller.f_lineno))
        return refused(self, *sentence)

    monkeypatch.setattr(Part, "refused", recorded)
    for make, name, _ in CASES:
        with pytest.raises(UserError):
            make(name)
    assert [
        place for place in _clauses() if not any(file == place[0] and line in place[1] for file, line in reached)
    ] == []


def _clauses():
    """The calls of ``part.refused(...)`` in the package, each a file and its lines."""
    for file in Path(score_sde.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refused":
                yield str(file), range(node.lineno, node.end_lineno + 1)


@pytest.mark.parametrize("name", ["Linen", "NNX", "Equinox", "functions"])
def test_a_network_of_any_library_is_a_network(name, key):
    """Its options reach it, its parameters follow the key, and the adapted gradient descends."""
    small, large = network(name, width=4), network(name, width=8)
    count = [sum(leaf.size for leaf in jax.tree.leaves(net.init(key, (2, 2)))) for net in (small, large)]
    assert count[0] < count[1]
    params, others = small.init(key, (1, 2)), small.init(jax.random.key(1), (1, 2))
    assert all(isinstance(node, dict) for node in [params])
    assert not np.allclose(*(jax.tree.leaves(tree)[-1] for tree in (params, others)))
    x, t = jax.random.normal(key, (5, 2)), jnp.linspace(0.1, 1.0, 5)

    def square(params):
        return jnp.mean((small.apply(params, x, t) - 1.0) ** 2)

    before, gradient = jax.jit(jax.value_and_grad(square))(params)
    assert all(bool((leaf != 0.0).any()) for leaf in jax.tree.leaves(gradient))
    assert square(jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)) < before
    one = small.apply(params, x[:1], t[:1])
    np.testing.assert_allclose(small.apply(params, x, t)[:1], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["LinenSpan", "NNXSpan", "EquinoxSpan", "functions_span"])
def test_a_network_of_average_velocities_is_told_the_span_and_its_derivative(name, key):
    """Mean flows differentiate by both times; the score is asked without a span."""
    net = network(name, spans=True)
    params, x, t = net.init(key, (3, 2)), jnp.ones((3, 2)), jnp.full(3, 0.5)

    def output(span):
        return net.apply(params, x, t, span=span)

    value, slope = jax.jvp(output, (jnp.zeros(3),), (jnp.ones(3),))
    assert bool((slope != 0.0).all())
    np.testing.assert_allclose(output(jnp.full(3, 1e-2)) - value, 1e-2 * slope, rtol=0.05, atol=1e-5)
    assert net.apply(params, x, t).shape == value.shape


@pytest.mark.parametrize("name", ["NNX", "Equinox", "functions"])
def test_dropout_follows_the_key_of_the_call(name, key):
    net = network(name)
    params, x, t = net.init(key, (4, 2)), jnp.ones((4, 2)), jnp.full(4, 0.5)
    without, first, again, second = (
        np.asarray(net.apply(params, x, t, key=one)) for one in (None, key, key, jax.random.key(1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, without) and not np.allclose(first, second)
    assert not np.allclose(first[0], first[1])  # each example has its own
    np.testing.assert_allclose(without[0], without[1], rtol=1e-6)


def test_a_network_is_called_with_what_it_takes(key):
    alone = network("WithoutNoise")
    assert alone.apply(alone.init(key, (1, 2)), jnp.ones((3, 2)), jnp.ones(3)).shape == (3, 2)
    with pytest.raises(UserError, match=r"takes no argument 'label', and .* is True"):
        network("Linen", num_classes=3)


def test_a_network_with_classes_gets_them(key):
    net = network("LinenWithLabel", num_classes=3)
    params, x, t = net.init(key, (1, 2)), jnp.ones((2, 2)), jnp.ones(2)
    first, second = net.apply(params, x, t, label=jnp.array([0, 1]))
    assert not np.allclose(first, second)
    unknown = net.apply(params, x, t), net.apply(params, x, t, label=jnp.array([-1, -1]))
    np.testing.assert_array_equal(*unknown)


def test_a_precision_is_for_networks_of_the_package():
    fields = {**Settings().model, "name": HERE + "Linen", "dtype": "bfloat16"}
    with pytest.raises(UserError, match=r"config.model.dtype is bfloat16.*own_parts:Linen chooses its own"):
        make_network(fields, (2,), num_scales=10, centered=True)


def test_parts_that_keep_their_contracts_are_what_they_say():
    settings = Settings()
    own = make_sde(settings.with_("sde", name=HERE + "cosine", options={"angle": 1.2}))
    np.testing.assert_allclose(own.marginal(jnp.float32(0.5)).std, np.sin(0.6), rtol=1e-6)
    assert make_sde(settings.with_("sde", name=HERE + "VP_ITSELF")) is own_parts.VP_ITSELF
    solver = method(predictor=HERE + "Euler", corrector=HERE + "Still", options={"factor": 2.0}, num_corrections=1)
    assert solver.predictor.factor == 2.0 and isinstance(solver.corrector, own_parts.Still)
    np.testing.assert_allclose(grid("halves", root=3.0)[-1], 0.01, rtol=1e-5)
    weighting = make_weighting(HERE + "power", settings.objective)
    np.testing.assert_array_equal(weighting(VP(), jnp.ones(3)), variance_weighting(VP(), jnp.ones(3)))


def test_a_loss_of_ones_own_is_trained(key):
    scaled = loss(kind=TRAINING + "scaled", times=HERE + "Squares", options={"factor": 3.0})
    net, x = network("Linen"), jnp.ones((4, 2))
    params = net.init(key, (4, 2))
    assert isinstance(scaled, Loss)
    times = own_parts.Squares(1e-5)
    plain = score_matching_loss(VP(), net, NoisePrediction(), times=times, weighting=variance_weighting)
    np.testing.assert_allclose(scaled(params, key, x, train=False), 3.0 * plain(params, key, x, train=False), rtol=1e-6)
    assert not isinstance(times, UniformTimes)


@pytest.mark.parametrize(
    ("name", "options"), [(TRAINING + "descent", {"momentum": 0.5}), ("optax:sgd", {"momentum": 0.5})]
)
def test_an_optimizer_of_ones_own_follows_the_schedule(name, options):
    tx = make_optimizer(Optim(name=name, options=options, lr=0.1, warmup=2, grad_clip=0.0))
    params = {"x": jnp.ones(3)}
    state, steps = tx.init(params), []
    for _ in range(4):
        updates, state = tx.update(params, state, params)
        steps.append(float(updates["x"][0]))
    np.testing.assert_allclose(steps, [0.0, -0.05 * 1.5, -0.1 * 1.75, -0.1 * 1.875], rtol=1e-5)


def test_muon_makes_the_kernel_of_a_convolution_orthogonal():
    """The update of a kernel, as a matrix from inputs to outputs, has equal singular values; a bias takes Adam's."""
    tx = make_optimizer(Optim(name="muon", lr=0.1, warmup=0, grad_clip=0.0, beta1=0.0, momentum=0.0))
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4)) * jnp.array([[[[1.0, 2.0, 4.0, 8.0]]]])
    gradient = {"kernel": kernel, "bias": jnp.array([1.0, -2.0, 3.0, 4.0])}
    updates, _ = tx.update(gradient, tx.init(gradient), gradient)
    values = np.linalg.svd(np.asarray(updates["kernel"]).reshape(18, 4), compute_uv=False)
    assert values.max() / values.min() < 2.0  # five iterations of Newton and Schulz leave 0.7 to 1.2
    before = np.linalg.svd(np.asarray(gradient["kernel"]).reshape(18, 4), compute_uv=False)
    assert before.max() / before.min() > 4.0
    np.testing.assert_allclose(updates["bias"], -0.1 * np.sign(gradient["bias"]), rtol=1e-4)


def test_adam_and_adamw_are_one():
    params = {"x": jnp.ones(3)}
    for fields in ({"weight_decay": 0.1}, {}):
        found = [make_optimizer(Optim(name=name, warmup=0, **fields)) for name in ("adam", "adamw")]
        first, second = (tx.update(params, tx.init(params), params)[0] for tx in found)
        np.testing.assert_array_equal(first["x"], second["x"])
    assert isinstance(found[0], optax.GradientTransformation)


def test_data_of_ones_own_are_split_and_described():
    train, test = (load_source(DATA + "points", split, options={"scale": 2.0}) for split in ("train", "test"))
    rows = np.arange(40)
    np.testing.assert_array_equal(test.gather(rows), own_data.points("test", scale=2.0))
    assert not np.array_equal(train.gather(rows), test.gather(rows))
    assert (len(load_source(DATA + "array", "train")), len(load_source(DATA + "array", "test"))) == (36, 4)
    info = source_info(DATA + "labeled")
    assert (info.shape, info.num_grey_levels, info.num_classes) == ((4, 4, 1), 256, 3)
    assert load_source(DATA + "labeled", "test").labels(np.arange(2)).dtype == np.int32
    assert source_info(DATA + "named").num_grey_levels == 16
    assert source_info(DATA + "source").name == "mine"


def test_an_extractor_of_ones_own_is_known_by_its_file_and_options():
    first, second = extractor("brightness"), extractor("brightness", power=2.0)
    images = np.full((3, 4, 4, 1), 3, np.uint8)
    np.testing.assert_allclose(second(images).features, first(images).features ** 2)
    assert first.name == second.name and first.sha256 != second.sha256
    assert extractor("made_extractor").name == "means"
