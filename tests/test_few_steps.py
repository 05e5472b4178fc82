"""Models of few steps: what they lack is said, and samplers of other models are refused by name, both ways."""

import re

import jax
import pytest

from score_sde.cli import main
from score_sde.config import default_config
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.modes.workdir import check_limit
from score_sde.solvers import Heun

MLP = {"model.name": "mlp", "model.features": 4, "model.num_blocks": 1, "sampling.num_steps": 2}
ENDS = {"objective.kind": "consistency", "sampling.predictor": "consistency"}
AVERAGES = {"objective.kind": "mean_flow", "sampling.predictor": "mean_flow", "parameterization.output": "velocity"}
STUDENT = {
    **{"objective.kind": "distillation", "objective.student_steps": 2, "objective.t_min": 1e-3},
    **{"sampling.predictor": "ddim", "sampling.denoising": "none"},
}
TEACHER = {"training.init_from": "a model"}
MODELS = {"consistency": ENDS, "mean_flow": AVERAGES, "distillation": STUDENT | TEACHER}


def configured(*changes):
    config = default_config()
    config.update_from_flattened_dict(MLP)
    for each in changes:
        config.update_from_flattened_dict(each)
    return config


def built(*changes, purposes=("train", "sample")):
    return Experiment.from_config(configured(*changes), (2,), None, purposes=purposes)


REFUSED = {
    "a sampler of scores": (ENDS, {"sampling.predictor": "heun"}, "predictor=heun.*expected consistency"),
    "a sampler of ends": ({}, {"sampling.predictor": "consistency"}, "learns the score.*expected one of.*heun"),
    "a sampler of averages": (ENDS, {"sampling.predictor": "mean_flow"}, "expected consistency"),
    "an adaptive sampler": (AVERAGES, {"sampling.predictor": "adaptive"}, "expected mean_flow"),
    "another sampler of a student": (STUDENT | TEACHER, {"sampling.predictor": "unipc_2"}, "expected ddim"),
    "a corrector": (ENDS, {"sampling.corrector": "langevin"}, "corrector=langevin follows a score"),
    "guidance": (ENDS, {"conditioning.scale": 2.0}, "conditioning.scale=2.0 guides a score"),
    "a classifier": (AVERAGES, {"conditioning.classifier": "a/place"}, "conditioning.classifier=.*guides a score"),
    "a chain": (ENDS, {"sde.schedule": "linear", "objective.t_min": 1e-3}, "chain.*expected.*schedule=continuous"),
    "data as the output": (ENDS, {"parameterization.output": "data"}, "output=data would have to learn"),
    "noise as the output": (AVERAGES, {"parameterization.output": "noise"}, "output is noise; expected velocity"),
    "no teacher": (STUDENT, {}, "init_from names no teacher"),
    "another start": (STUDENT | TEACHER, {"training.init_anew": True}, "init_anew is True; expected False"),
    "other steps": (STUDENT | TEACHER, {"sampling.num_steps": 3}, "num_steps is 3; expected the student's, 2"),
    "a noisy step": (STUDENT | TEACHER, {"sampling.eta": 0.5}, "sampling.eta=0.5 adds noise"),
    "a score at the end": (STUDENT | TEACHER, {"sampling.denoising": "tweedie"}, "expected mean or none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_is_refused_by_name(case):
    model, change, message = REFUSED[case]
    with pytest.raises(UserError) as caught:
        built(model, change)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_pictures_in_training_need_the_sampler_too():
    with pytest.raises(UserError, match="takes steps of another kind"):
        built(ENDS, {"sampling.predictor": "heun", "training.sample_every": 10}, purposes={"train"})
    built(ENDS, {"sampling.predictor": "heun"}, purposes={"train"})


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_few_steps_has_no_score_and_no_likelihood(name):
    run = built(MODELS[name])
    for ask in (
        lambda: check_limit(run.settings),
        lambda: run.score_fn({}),
        lambda: run.fixed_steps(Heun(), run.times),
    ):
        with pytest.raises(UserError, match=f"config.objective.kind={name} the network learns"):
            ask()


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_its_samples_cost_one_evaluation_for_each_step(name):
    run = built(MODELS[name], {"sampling.denoising": "none"})
    params = run.init_state().params
    for steps in (1, 2):
        sampler = run.with_sampling(num_steps=steps).sampler  # a student can be asked for others only so
        x, num_evals, _ = sampler(params, jax.random.key(0), (3, 2), 0)
        assert num_evals.tolist() == [steps] * 3 and x.shape == (3, 2)


TINY = (
    *("--config=configs/vp/toy_mlp.py", "--mode=train", "--config.model.features=8", "--config.model.num_blocks=1"),
    *("--config.training.batch_size=8", "--config.training.log_every=5", "--config.training.eval_every=10"),
    *("--config.training.checkpoint_every=5", "--config.training.sample_every=0", "--config.optim.warmup=5"),
    *("--config.likelihood.batch_size=500", "--config.training.num_steps=10"),
)


@pytest.mark.slow
def test_a_student_is_trained_from_its_teacher_resumed_and_refused_another(tmp_path, capsys):
    """The teacher is needed to the end, unlike another model that training starts from."""
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert main([*TINY, f"--workdir={teacher}"]) == 0
    fields = ("objective.kind=distillation", "objective.student_steps=2", f"training.init_from={teacher}")
    command = [*TINY, *(f"--config.{field}" for field in fields)]
    sampled = [
        f"--config.sampling.{field}" for field in ("predictor=ddim", "denoising=none", "num_steps=2", "t_min=1e-5")
    ]
    assert main([*command, f"--workdir={student}"]) == 0
    assert main([*command, f"--workdir={tmp_path / 'parts'}", "--config.training.num_steps=5"]) == 0
    assert main([*command, f"--workdir={tmp_path / 'parts'}"]) == 0
    logged = [(place / "metrics.jsonl").read_text() for place in (student, tmp_path / "parts")]
    assert [line.split('"eval_loss"')[0] for line in logged[0].splitlines()][-1] in logged[1]
    assert main(["--mode=sample", f"--workdir={student}", *sampled, "--config.sampling.num_samples=4"]) == 0
    assert main(["--mode=eval", f"--workdir={student}"]) == 0
    assert main(["--mode=likelihood", f"--workdir={student}"]) == 2
    assert "learns long steps along the flow, and not the score that a likelihood" in capsys.readouterr().err
    unlike = [*command, f"--workdir={tmp_path / 'unlike'}", "--config.parameterization.output=v"]
    assert main(unlike) == 2
    assert "parameterization.output" in capsys.readouterr().err
    assert main([*TINY, f"--workdir={teacher}", "--config.training.num_steps=15"]) == 0
    assert main([*command, f"--workdir={student}", "--config.training.num_steps=15"]) == 2
    assert "is not the teacher that the run" in capsys.readouterr().err
