"""A field that has no effect is named, and one that is named has no effect: by the program that is traced of both."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import main
from score_sde.config import changed_fields, default_config, from_file
from score_sde.errors import UserError
from score_sde.evaluation.likelihood import BinNoise, flow_draw
from score_sde.evaluation.samples import compiled_sampler
from score_sde.experiment import Experiment
from score_sde.fields import FIELDS
from score_sde.unread import unread
from score_sde.validation import PURPOSES
from tests.fuzz.values import good_values

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").rglob("*.py"))
SMALL = {"model.name": "mlp", "model.features": 4, "model.num_blocks": 1, "sampling.num_steps": 30}
#: Read outside the program that is traced, by what calls it.
OUTSIDE = {f"sampling.{name}" for name in ("seed", "first", "num_samples", "batch_size")}
OUTSIDE |= {f"likelihood.{name}" for name in ("num_dequantizations", "importance_weighted", "dequantization")}
OUTSIDE |= {
    f"likelihood.{name}" for name in ("budget_examples", "noise_levels", "bound_times", "num_examples", "flow_examples")
}
OUTSIDE |= {"likelihood.batch_size", "objective.hybrid", "objective.levels"}
#: The picture of a trajectory is drawn on this grid, whatever the predictor.
OUTSIDE |= {"sampling.num_steps", "sampling.grid", "sampling.rho"}
#: At these values another field does all that this one could do.
SAME = {
    "sampling.thresholding": "images alone have a range",
    "sampling.corrector_first": "a predictor that does nothing comes before and after",
}
#: They choose what is then multiplied by 0, or keys from which nothing is drawn.
DROPPED = {"sampling.churn_min", "sampling.churn_max", "likelihood.fresh_probes"}


def configured(changes):
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict(SMALL | changes)
    return config


@functools.lru_cache(maxsize=1000)
def traced(purpose, changes, shape=(2,)):
    """The program of a configuration, with its constants; ``None`` where there is none."""
    try:
        experiment = Experiment.from_config(configured(dict(changes)), shape, None, purposes={purpose})
    except UserError:
        return None
    params = jax.eval_shape(experiment.init_state).params
    key, batch = jax.random.key(0), jnp.zeros((2, *shape))
    if purpose == "sample":
        program = compiled_sampler(experiment).trace(params, key, (2, *shape), 0).jaxpr
    elif purpose == "train":
        program = jax.make_jaxpr(lambda params: experiment.loss(params, key, batch, train=True))(params)
    else:
        program = flow_draw(experiment, BinNoise()).trace(params, {}, key, batch).jaxpr
    text = re.sub(
        r"0x[0-9a-f]+", "", f"{program} {jax.make_jaxpr(experiment.init_state)() if purpose == 'train' else ''}"
    )
    return text + "".join(
        np.array2string(np.asarray(jax.random.key_data(c) if _is_key(c) else c)) for c in program.consts
    )


def _is_key(value):
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def named(config, purposes):
    """The fields that are said to be without effect."""
    told = [re.split(" ha[sv]", sentence)[0] for sentence in unread(config, purposes)]
    return {name for part in told for name in re.findall(r"config\.([\w.]+)=", part)}


def others(field):
    """Values of a field that are not its default, the plainest first."""
    found = [value for value in good_values(FIELDS[field]) if value != FIELDS[field].default]
    return sorted(found, key=lambda value: abs(value - FIELDS[field].default) if isinstance(value, float) else 0)[:3]


#: The groups that are looked at.
GROUPS = {
    "sample": ("sampling",),
    "train": ("sde", "parameterization", "model", "objective"),
    "likelihood": ("likelihood",),
}


def check(purpose, context, shape=(2,)):
    """Every field of a group, in a context: it is named if and only if no value of it makes another program."""
    before, compared = traced(purpose, tuple(context.items()), shape), 0
    assert before is not None
    for field in FIELDS:
        if field.partition(".")[0] not in GROUPS[purpose] or field in {*SMALL, *context, *OUTSIDE}:
            continue
        programs = {value: traced(purpose, (*context.items(), (field, value)), shape) for value in others(field)}
        programs = {value: program for value, program in programs.items() if program is not None}
        said = {value: field in named(configured(context | {field: value}), {purpose}) for value in programs}
        for value, program in programs.items():
            assert not said[value] or program == before or field in DROPPED, (field, value)
        if programs and not any(said.values()) and field not in SAME:
            assert any(program != before for program in programs.values()), f"{field} has no effect with {context}"
        compared += bool(programs)
    return compared


SAMPLING = {
    "noise": {"sampling.predictor": "euler_maruyama"},
    "noise of its own": {"sampling.predictor": "ddim"},
    "churn": {"sampling.predictor": "edm_heun", "sampling.corrector": "langevin"},
    "adaptive": {"sampling.predictor": "adaptive"},
    "adaptive with noise": {"sampling.predictor": "adaptive_sde"},
    "no predictor": {"sampling.predictor": "none", "sampling.corrector": "annealed_langevin", "sde.name": "ve"},
    "a chain": {"sampling.predictor": "ancestral", "sde.schedule": "linear"},
}
FIRST = ("noise",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*FIRST, *(pytest.param(case, marks=pytest.mark.long) for case in SAMPLING if case not in FIRST)]
)
def test_a_field_of_sampling_is_named_if_and_only_if_it_makes_no_other_program(case):
    assert check("sample", SAMPLING[case]) > 8


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [pytest.param(0, marks=pytest.mark.long), 24])
@pytest.mark.parametrize("num_probes", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_field_of_the_likelihood_is_named_if_and_only_if_it_makes_no_other_program(num_steps, num_probes):
    assert check("likelihood", {"likelihood.num_steps": num_steps, "likelihood.num_probes": num_probes}) > 4


def test_labels_and_guidance_are_named_if_and_only_if_no_label_is_read():
    classes = {"conditioning.classes": True, "model.num_classes": 3}
    for field, value in {"conditioning.labels": (2,), "conditioning.scale": 2.0}.items():
        assert field in named(configured({field: value}), {"sample"})
        assert field not in named(configured(classes | {field: value}), {"sample"})
        given = (*classes.items(), (field, value))
        assert traced("sample", given) != traced("sample", tuple(classes.items()))


def test_guidance_is_named_where_images_are_restored_as_of_no_class():
    asked = {"conditioning.classes": True, "conditioning.scale": 2.0, "conditioning.rescale": 0.5}
    both = {"conditioning.scale", "conditioning.rescale"}
    assert both <= named(configured(asked), {"sample", "restore"}) and not both & named(configured(asked), {"sample"})
    assert not both & named(configured(asked | {"conditioning.labels": (1,)}), {"sample", "restore"})


IMAGES = {"model.channel_multipliers": (1, 2), "model.attention_resolutions": (8,), "model.features": 8}
WAVES = {"model.input_frequencies": (1,), "model.damped_waves": True}
TRAINING = {
    "a perceptron": ({}, (2,)),
    "a chain and its bound": (
        {"sde.schedule": "linear", "objective.kind": "bound", "parameterization.variances": "learned"},
        (2,),
    ),
    "ncsnpp": (IMAGES | {"model.name": "ncsnpp"}, (8, 8, 1)),
    "waves": (IMAGES | WAVES | {"model.name": "ncsnpp", "parameterization.condition_on": "log_noise"}, (8, 8, 1)),
    "ddpm": (IMAGES | {"model.name": "ddpm"}, (8, 8, 1)),
    "edm2": (IMAGES | {"model.name": "edm2"}, (8, 8, 1)),
    "ncsnv2": ({"model.features": 32, "model.name": "ncsnv2_64", "sde.name": "ve"}, (8, 8, 1)),
    "an autoencoder": ({"model.name": "vae", "objective.kind": "bound"}, (8, 8, 1)),
    "the end of the flow": ({"objective.kind": "consistency", "objective.gap_every": 10**6}, (2,)),
    "average velocities": ({"objective.kind": "mean_flow", "parameterization.output": "velocity"}, (2,)),
    "a student": ({"objective.kind": "distillation", "training.init_from": "a teacher"}, (2,)),
}


@pytest.mark.long
@pytest.mark.parametrize("case", TRAINING)
def test_a_field_of_training_is_named_if_and_only_if_it_makes_no_other_program(case):
    context, shape = TRAINING[case]
    assert check("train", context, shape) > 8


def test_what_has_no_effect_is_said_wherever_it_is_set(tmp_path, caplog):
    file = tmp_path / "mine.py"
    file.write_text(
        "from score_sde.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.data.name, config.model.name, config.sampling.eta = 'toy:moons', 'mlp', 0.5\n"
        "    config.sampling.num_samples = 7\n"
        "    return config\n"
    )
    command = [f"--config={file}", f"--workdir={tmp_path / 'none'}"]
    assert main([*command, "--mode=sample", "--config.sampling.rho=5"]) == 2  # there is no run
    assert main([*command, "--mode=pareto", "--config.sampling.num_steps=8"]) == 2
    said = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert said == [
        "config.sampling.eta=0.5 has no effect with config.sampling.predictor=euler_maruyama: "
        "it is read where config.sampling.predictor is ddim.",
        "config.sampling.rho=5.0 has no effect with config.sampling.grid=uniform: "
        "it is read where config.sampling.grid is edm.",
        "config.sampling.num_steps=8 has no effect here: config.pareto is read.",
    ]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_shipped_configuration_sets_nothing_that_is_not_read(file):
    assert not list(unread(from_file(file), PURPOSES))


def test_a_field_that_is_not_read_may_differ_from_the_record_of_a_run():
    recorded = configured({"parameterization.data_std": 0.75}).to_dict()
    assert not changed_fields(recorded, configured({}), groups=["parameterization"])
    now = configured({"parameterization.output": "edm"})
    assert len(changed_fields(recorded, now, groups=["parameterization"])) == 2
    assert changed_fields(recorded | {"parameterization": {"scale_input": True}}, now, groups=["parameterization"])


def test_what_a_purpose_takes_from_elsewhere_is_named():
    changes = {"sampling.predictor": "heun", "sampling.num_samples": 7}
    (pareto,) = unread(configured(changes), {"pareto"}, changes)
    assert pareto == "config.sampling.predictor=heun and config.sampling.num_samples=7 have no effect here: " + (
        "config.pareto is read."
    )
    assert [*unread(configured(changes), {"evaluate", "sample"}, changes)] == [
        "config.sampling.num_samples=7 has no effect here: config.evaluation is read."
    ]


def test_a_report_takes_no_field(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}", "--mode=report", "--config.seed=1"]) == 2
    assert "reads no field of a configuration" in capsys.readouterr().err
