"""Every shipped configuration builds, and a value out of range is refused with a sentence that helps."""

from pathlib import Path

import jax
import numpy as np
import pytest

from score_sde.config import default_config, from_file
from score_sde.errors import UserError
from score_sde.fields import FIELDS
from score_sde.labels import Labeled
from score_sde.modes.workdir import build_experiment
from score_sde.sdes import VP, SubVP
from score_sde.training.objective import OBJECTIVES

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.py"))
# Tracing takes seconds for each of the large published networks: one of every family stands for the others.
PUBLISHED = [file for file in FILES if "import published" in file.read_text()]
FAMILIES = ("vp/ddpm/cifar10", "ve/cifar10_ncsnpp_continuous", "ve/ncsn/cifar10", "ve/ncsnv2/cifar10")
LARGE = [*PUBLISHED, CONFIGS / "vp" / "cifar10_classes.py"]
TRACED = [file for file in FILES if file not in LARGE] + [CONFIGS / f"{name}.py" for name in FAMILIES]


def _name(file):
    return file.relative_to(CONFIGS).as_posix()


def _num_params(params):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@pytest.mark.sweep(8)
@pytest.mark.parametrize("file", PUBLISHED, ids=_name)
def test_a_published_configuration_builds_without_its_data(file):
    assert build_experiment(from_file(file)).event_shape[-1] == 3


@pytest.mark.sweep(5)
@pytest.mark.parametrize("file", TRACED, ids=_name)
def test_a_shipped_configuration_builds_and_its_training_step_traces(file):
    config = from_file(file)
    if OBJECTIVES[config.objective.kind].taught:
        config.training.init_from = "a teacher"  # without which the student is its own
    experiment = build_experiment(config)
    state = experiment.abstract_state()
    dtype = np.uint8 if experiment.quantization.num_grey_levels else np.float32
    batch = jax.ShapeDtypeStruct((experiment.settings.training.batch_size, *experiment.event_shape), dtype)
    if experiment.num_classes:
        batch = Labeled(batch, jax.ShapeDtypeStruct(batch.shape[:1], np.int32))
    after, metrics = jax.eval_shape(experiment.train_step, state, batch)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert metrics["loss"].shape == metrics["grad_norm"].shape == ()


@pytest.mark.sweep
@pytest.mark.parametrize(("num_blocks", "count"), [(4, 61_804_419), (8, 106_632_579)], ids=["DDPM++", "deep"])
def test_the_default_network_has_the_published_number_of_parameters(num_blocks, count):
    config = default_config()
    config.model.num_blocks = num_blocks
    assert _num_params(build_experiment(config).abstract_state().params) == count


def test_the_digits_network_has_the_size_that_its_configuration_states():
    file = CONFIGS / "vp" / "digits_ddpmpp.py"
    thousands = _num_params(build_experiment(from_file(file)).abstract_state().params) / 1000
    assert f"{thousands:.0f} thousand parameters" in file.read_text()


BAD_VALUES = {
    "sigma_min above sigma_max": (
        {"sde.name": "ve", "sde.sigma_min": 60.0},
        "config.sde.sigma_min is 60.0 and config.sde.sigma_max is 50.0; expected the first to be smaller",
    ),
    "beta_min above beta_max": ({"sde.beta_min": 21.0}, "config.sde.beta_min is 21.0 and config.sde.beta_max is 20.0"),
    "noise that leaves nothing of the data": (
        {"sde.beta_min": 1.0, "sde.beta_max": 349.0},
        "config.sde.beta_min is 1.0 and config.sde.beta_max is 349.0: at t = 1 the weight of the data",
    ),
    "negative beta_min": ({"sde.beta_min": -1.0}, "config.sde.beta_min is -1.0; expected a number from"),
    "training from t = 1": (
        {"objective.t_min": 1.0},
        "config.objective.t_min is 1.0; expected a number from 1e-12 to 0.5",
    ),
    "sampling until t = 2": (
        {"sampling.t_min": 2.0},
        "config.sampling.t_min is 2.0; expected a number from 1e-12 to 0.5",
    ),
    "likelihood from t = 0": ({"likelihood.t_min": 0.0}, "config.likelihood.t_min is 0.0; expected a number from"),
    "no training": ({"training.num_steps": 0}, "config.training.num_steps is 0; expected an integer from 1"),
    "no batch": ({"training.batch_size": 0}, "config.training.batch_size is 0; expected an integer from 1"),
    "negative probes": (
        {"likelihood.num_probes": -1},
        "config.likelihood.num_probes is -1; expected an integer from 0",
    ),
    "nan tolerance": ({"sampling.tolerance": float("nan")}, "config.sampling.tolerance is nan; expected a number from"),
    "checkpoints between log lines": (
        {"training.checkpoint_every": 75},
        "config.training.checkpoint_every is 75; expected a multiple of config.training.log_every, 50",
    ),
    "evaluation between log lines": (
        {"training.eval_every": 75},
        "config.training.eval_every is 75; expected a multiple of config.training.log_every, 50",
    ),
    "a last step between dispatches": (
        {"training.steps_per_dispatch": 3},
        "config.training.num_steps is 1300000; expected a multiple of config.training.steps_per_dispatch, 3",
    ),
    "log lines between dispatches": (
        {"training.steps_per_dispatch": 4},
        "config.training.log_every is 50; expected a multiple of config.training.steps_per_dispatch, 4",
    ),
    "images for the mlp": (
        {"model.name": "mlp"},
        r"'mlp' takes vectors \(D,\); the data have shape \(32, 32, 3\). Set .*name=ncs",
    ),
    "vectors for the U-Net": (
        {"data.name": "toy:moons"},
        r"takes series \(L, C\), images \(H, W, C\) or volumes \(D, H, W, C\); .* shape \(2,\). Set .*name=mlp",
    ),
    "images that cannot be halved": (
        {"data.name": "mnist", "model.name": "ncsnv2_256", "model.features": 32},
        "Images of 28x28 cannot be halved 3 times: expected a multiple of 8, or the network ncsnpp, which pads them",
    ),
    "no levels": ({"model.channel_multipliers": ()}, "config.model.channel_multipliers is .*; expected"),
    "half a channel": ({"model.channel_multipliers": (1, 0)}, "config.model.channel_multipliers is .*; expected"),
    "unknown activation": ({"model.activation": "swoosh"}, "is 'swoosh'; expected one of .* Did you mean 'swish'"),
    "unknown embedding": ({"model.embedding": "furier"}, "is 'furier'; expected one of .* Did you mean 'fourier'"),
    "unknown weighting": (
        {"objective.weighting": "varianse"},
        "is 'varianse'; expected one of .* Did you mean 'variance'",
    ),
    "unknown times": ({"objective.times": "unifrom"}, "is 'unifrom'; expected one of .* Did you mean 'uniform'"),
    "unknown grid": ({"sampling.grid": "logsnr"}, "is 'logsnr'; expected one of .* Did you mean 'log_snr'"),
    "unknown denoising": ({"sampling.denoising": "tweedy"}, "is 'tweedy'; expected one of .* Did you mean 'tweedie'"),
    "unknown schedule": ({"optim.schedule": "cosin"}, "is 'cosin'; expected one of .* Did you mean 'cosine'"),
    "unknown probe kind": ({"likelihood.probe_kind": "gausian"}, "probe_kind is 'gausian'; expected .* 'gaussian'"),
    "unknown condition": ({"parameterization.condition_on": "tim"}, "condition_on is 'tim'; expected .* 'time'"),
    "adaptive solver with a corrector": (
        {"sampling.predictor": "adaptive", "sampling.corrector": "langevin"},
        "predictor adaptive takes no corrector; set config.sampling.corrector=none",
    ),
    "training below the first level of a chain": (
        {"sde.schedule": "linear", "sampling.predictor": "ancestral"},
        "objective.t_min is 1e-05, and the first level of the chain is at 0.001; expected that",
    ),
    "importance sampling on a chain": (
        {"objective.times": "importance", "sde.schedule": "linear"},
        "times=importance needs an SDE; set config.sde.schedule=continuous",
    ),
    "groups that do not divide the features": (
        {"model.name": "ncsnv2_64", "model.normalization": "GroupNorm", "model.features": 48},
        "config.model.features is 48, .*normalization=GroupNorm makes 32 groups.*; expected a multiple of 32",
    ),
    "the mean of a last step that has no name": (
        {"sampling.predictor": "adaptive_sde", "sampling.denoising": "mean"},
        "denoising is mean, .* adaptive_sde keeps the last step with its noise; expected tweedie or none",
    ),
    "dropout of everything": ({"model.dropout": 1.0}, "config.model.dropout is 1.0; expected"),
    "negative learning rate": ({"optim.lr": -1.0}, "config.optim.lr is -1.0; expected"),
    "negative warm-up": ({"optim.warmup": -1}, "config.optim.warmup is -1; expected an integer from 0"),
    "average that forgets nothing": ({"optim.ema_rate": 1.5}, "config.optim.ema_rate is 1.5; expected"),
    "negative seed": ({"seed": -1}, "config.seed is -1; expected"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_value_out_of_range_is_refused_with_its_name_and_what_was_expected(case):
    changes, message = BAD_VALUES[case]
    config = default_config()
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        (config[group] if group else config)[field] = value
    with pytest.raises(UserError, match=message):
        build_experiment(config)


def test_the_bound_of_a_rate_is_where_it_cannot_be_computed_any_more():
    config, most = default_config(), FIELDS["sde.beta_max"].high
    config.sde.beta_max = most
    assert build_experiment(config).sde == VP(beta_max=most)
    for make in (VP, SubVP):
        make(beta_max=most)
        with pytest.raises(UserError, match="is 0 in float32"):
            make(beta_max=most + 1.0)


def test_a_field_that_does_not_exist_is_refused_with_the_nearest_one():
    config = default_config()
    with config.unlocked():
        config.optim.learning_rate = 1e-3
    with pytest.raises(UserError, match=r"Unknown config field 'optim.learning_rate'"):
        build_experiment(config)


def test_a_field_that_is_missing_is_named():
    config = default_config()
    with config.unlocked():
        del config.optim.lr
    with pytest.raises(UserError, match=r"The config lacks optim.lr: start from score_sde.config.default_config"):
        build_experiment(config)


def test_a_field_of_another_type_is_refused():
    config = default_config()
    with config.unlocked(), config.ignore_type():
        config.training.num_steps = "many"
    with pytest.raises(
        UserError, match=r"config\.training\.num_steps is 'many'; expected an integer from 1 to 1,000,000,000"
    ):
        build_experiment(config)
