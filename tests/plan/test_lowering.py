"""Every configuration can be written for TPUs and GPUs by a machine that has none: training, sampling, likelihoods."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from score_sde.config import from_file
from score_sde.data import source_info
from score_sde.distributed import AXES
from score_sde.errors import UserError
from score_sde.evaluation.likelihood import BinNoise, flow_draw
from score_sde.experiment import Experiment
from score_sde.plan.program import sample_program, train_program
from score_sde.validation.few_steps import has_score

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.py"))
PLATFORMS = ("tpu", "cuda")
BATCH = 2


def _experiment(name):
    config = from_file(CONFIGS / f"{name}.py")
    config.training.batch_size = BATCH
    if config.objective.kind == "distillation":
        config.training.init_from = "a teacher"
    shape, levels = tuple(config.data.shape), 256
    if not shape:
        info = source_info(config.data.name)
        shape, levels = info.shape, info.num_grey_levels
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES, axis_types=(AxisType.Auto,) * 2)
    classes = 10 if config.conditioning.classes else None  # of CIFAR-10, whose data are not at hand
    return Experiment.from_config(config, shape, levels, num_classes=classes, mesh=mesh)


def _likelihood_program(experiment):
    dtype = np.float32 if experiment.quantization.num_grey_levels is None else np.uint8
    levels = jax.ShapeDtypeStruct((BATCH, *experiment.event_shape), dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    draw = flow_draw(experiment, BinNoise())
    return draw, (experiment.abstract_state().params, {}, key, levels)


def _lowered(program):
    function, arguments = program
    traced = function.trace(*arguments)
    return {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS}


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_can_be_written_for_accelerators(name):
    experiment = _experiment(name)
    programs = [train_program(experiment, BATCH)]
    if has_score(experiment.settings):
        programs.append(_likelihood_program(experiment))
    if experiment.sampler.num_evals is not None:
        programs.append(sample_program(experiment, BATCH))
    for program in programs:
        for platform, text in _lowered(program).items():
            assert "func.func public @main" in text, platform


def test_a_small_one_can_too():
    config = from_file(CONFIGS / "vp/toy_mlp.py")
    config.training.batch_size = BATCH
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES, axis_types=(AxisType.Auto,) * 2)
    experiment = Experiment.from_config(config, (2,), None, mesh=mesh)
    for program in (train_program(experiment, BATCH), _likelihood_program(experiment)):
        assert all("func.func public @main" in text for text in _lowered(program).values())


def test_sampling_with_as_many_steps_as_needed_is_no_program_of_known_length():
    config = from_file(CONFIGS / "vp/toy_mlp.py")
    config.sampling.predictor = "adaptive"
    config.training.batch_size = jax.device_count()
    with pytest.raises(UserError, match="depends on the samples"):
        sample_program(Experiment.from_config(config, (2,), None), BATCH)
