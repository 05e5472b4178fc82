"""The description of the fields agrees with what there is, and all that is wrong with them is said at once."""

import ast
import dataclasses
import inspect
import pathlib
import textwrap

import jax
import numpy as np
import pytest

import score_sde
from score_sde.cli import load_config, main
from score_sde.conditioning.degradations import DEGRADATIONS, REGIONS
from score_sde.config import default_config
from score_sde.data.base import SPLITS
from score_sde.data.sources import TFDS_INFO, TOYS, source_info
from score_sde.diffusions import CONTINUOUS, DIFFUSIONS
from score_sde.errors import UserError
from score_sde.evaluation.metrics import extractor_of
from score_sde.evaluation.programs import PROGRAMS
from score_sde.evaluation.restorers import RESTORERS
from score_sde.experiment import Experiment
from score_sde.fields import DEFAULTS, FIELDS
from score_sde.fields.conditions import When
from score_sde.fields.kinds import Several
from score_sde.fields.reference import page
from score_sde.fields.settings import leaves
from score_sde.likelihood import DEQUANTIZATIONS
from score_sde.metrics import METRICS
from score_sde.metrics.extractors import EXTRACTORS
from score_sde.models.adapters import LinenNetwork
from score_sde.models.blocks import INPUT_PYRAMIDS, OUTPUT_PYRAMIDS
from score_sde.models.layers import ACTIVATIONS
from score_sde.models.normalization import NORMALIZATIONS
from score_sde.models.registry import DEQUANTIZERS, NETWORKS, make_dequantizer
from score_sde.models.sizes import dequantizer_count
from score_sde.models.vae import VARIANCES as DECODER_VARIANCES
from score_sde.objectives import TIME_SAMPLERS, WEIGHTINGS
from score_sde.parameterization import CONDITIONS, PARAMETERIZATIONS
from score_sde.plan.chips import NAMES
from score_sde.plan.program import undivided
from score_sde.samplers import METHODS
from score_sde.sampling import GRIDS
from score_sde.solvers import CORRECTORS, PREDICTORS, PredictorCorrector, follows_of
from score_sde.training.ema import MAX_WIDTH, MAX_WIDTHS
from score_sde.training.objective import OBJECTIVES, VARIANCES
from score_sde.training.optim import SCHEDULES
from score_sde.training.trackers import TRACKERS

PACKAGE = pathlib.Path(score_sde.__file__).parent
REGISTRIES = {
    "sde.name": DIFFUSIONS,
    "sde.schedule": [CONTINUOUS, *(name for diffusion in DIFFUSIONS.values() for name in diffusion.schedules)],
    "parameterization.output": PARAMETERIZATIONS,
    "parameterization.condition_on": CONDITIONS,
    "parameterization.variances": VARIANCES,
    "model.name": NETWORKS,
    "model.activation": ACTIVATIONS,
    "model.progressive": OUTPUT_PYRAMIDS,
    "model.progressive_input": INPUT_PYRAMIDS,
    "model.normalization": NORMALIZATIONS,
    "model.variance": DECODER_VARIANCES,
    "data.name": ["digits", "array", *TFDS_INFO, *(f"toy:{name}" for name in TOYS)],
    "objective.kind": OBJECTIVES,
    "objective.student_grid": GRIDS,
    "objective.weighting": WEIGHTINGS,
    "objective.times": TIME_SAMPLERS,
    "optim.schedule": SCHEDULES,
    "training.trackers": TRACKERS,
    "dequantizer.name": ["none", *DEQUANTIZERS],
    "sampling.predictor": METHODS,
    "sampling.corrector": ["none", *CORRECTORS],
    "sampling.grid": GRIDS,
    "likelihood.grid": GRIDS,
    "pareto.solvers": PREDICTORS,
    "pareto.grids": GRIDS,
    "plan.chip": NAMES,
    "evaluation.metrics": METRICS,
    "likelihood.dequantization": DEQUANTIZATIONS,
    "evaluation.extractor": ["auto", *EXTRACTORS],
    "evaluation.reference_split": SPLITS,
    "export.program": ["none", *PROGRAMS],
    "conditioning.operator": DEGRADATIONS,
    "conditioning.region": REGIONS,
    "conditioning.method": RESTORERS,
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_the_choices_of_a_field_are_those_of_its_registry(name):
    kind = FIELDS[name]
    assert {*(kind.of if isinstance(kind, Several) else kind).names} == {*REGISTRIES[name]}


def fields_of(make):
    return {field.name for field in dataclasses.fields(make if isinstance(make, type) else type(make()))}


#: Of each field that chooses a class, the fields of its group that each class has and the choice leaves open.
CLASSES = {
    "sde.name": {name: fields_of(diffusion.sde) for name, diffusion in DIFFUSIONS.items()},
    "parameterization.output": {name: fields_of(cls) - {*cls.fixed} for name, cls in PARAMETERIZATIONS.items()},
    "model.name": {
        **{name: fields_of(family.module) - {*family.fixed} for name, family in NETWORKS.items()},
        "ncsn": fields_of(NETWORKS["ncsn"].module) - {"num_classes"},  # its classes are levels
    },
    "sampling.predictor": {name: fields_of(make) for name, make in METHODS.items()},
    "conditioning.operator": {name: fields_of(cls) for name, cls in DEGRADATIONS.items()},
    "sampling.corrector": {"none": ()} | {name: fields_of(make) for name, make in CORRECTORS.items()},
}


@pytest.mark.parametrize("selector", CLASSES)
def test_a_field_is_read_where_the_class_that_is_chosen_has_it(selector):
    group, classes, seen = selector.partition(".")[0], CLASSES[selector], 0
    for field in FIELDS:
        own = field.partition(".")[2]
        if field.partition(".")[0] != group or not any(own in known for known in classes.values()):
            continue
        clauses = [c for c in FIELDS[field].when.clauses if {where.field for where in c} == {selector}]
        for name, known in classes.items():
            assert (When(tuple(clauses)).failing({selector: name}) is None) is (own in known), (field, name)
            seen += 1
    assert seen >= 6


def test_the_noise_scale_is_read_by_the_solvers_that_follow_it():
    heedful = {name for name, make in METHODS.items() if follows_of(make()) in ("any", "sde")}
    (clause,) = FIELDS["sampling.noise_scale"].when.clauses[1:]
    assert {*clause[0].values} == heedful


#: Defaults of classes that are of other values than the field's, because a publication has them.
OWN = {("EDMPrediction", "scale_input"), ("EDMPrediction", "condition_on"), ("NCSNv2", "activation")}
OWN |= {("NCSN", "activation"), ("NCSN", "num_classes")}
OWN |= {("DDPM", name) for name in ("num_blocks", "resblock_type", "skip_rescale")}


COMPONENTS = {
    "sde": [diffusion.sde for diffusion in DIFFUSIONS.values()],
    "parameterization": [*PARAMETERIZATIONS.values()],
    "model": [*(family.module for family in NETWORKS.values()), LinenNetwork],
    "dequantizer": [*DEQUANTIZERS.values()],
    "conditioning": [*DEGRADATIONS.values()],
    "sampling": [
        *(make if isinstance(make, type) else type(make()) for make in METHODS.values()),
        *(*CORRECTORS.values(), PredictorCorrector),
    ],
}


def test_every_default_is_valid_and_of_its_type():
    """Settings do not check a value that is the very object of a default."""
    for name, value in leaves(DEFAULTS).items():
        typed = FIELDS[name].typed(value)
        assert FIELDS[name].problem(name, value) is None and (type(typed), typed) == (type(value), value), name


@pytest.mark.parametrize("group", COMPONENTS)
def test_the_default_of_a_component_is_read_from_the_line_of_its_field(group):
    classes, seen = {base for component in COMPONENTS[group] for base in component.__mro__}, 0
    for cls in {cls for cls in classes if cls.__module__.startswith("score_sde.")}:
        for line in ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body:
            if not isinstance(line, ast.AnnAssign) or line.value is None or line.target.id == "name":
                continue
            if (name := f"{group}.{line.target.id}") in FIELDS and (cls.__name__, line.target.id) not in OWN:
                assert f"DEFAULTS.{name}" in ast.unparse(line.value), (cls.__name__, ast.unparse(line))
                seen += 1
    assert seen >= 4


#: Arguments that mean a field wherever a function has them.
ARGUMENTS = {"likelihood": ("num_probes", "probe_kind", "fresh_probes"), "sampling": ("max_steps", "rho", "denoising")}
ARGUMENTS |= {"sde": ("sigma_min", "sigma_max"), "objective": ("reduce_mean",)}
ARGUMENTS |= {"data": ("prefetch",), "evaluation": ("keep_features",)}


def test_the_default_of_an_argument_is_read_from_the_line_of_its_field():
    meant, seen = {name: group for group, names in ARGUMENTS.items() for name in names}, set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                args = node.args
                pairs = [*zip(args.args[::-1], args.defaults[::-1], strict=False)]
                pairs += zip(args.kwonlyargs, args.kw_defaults, strict=True)
                given = {arg.arg: value for arg, value in pairs if value is not None and arg.arg in meant}
                literals = {name for name, value in given.items() if isinstance(value, ast.Constant)}
                assert not {name for name in literals if given[name].value is not None}, (file, node.name)
                seen |= set(given)
    assert seen == set(meant)


def test_the_reference_of_the_fields_is_up_to_date():
    written = (PACKAGE.parent / "docs" / "fields.md").read_text()
    assert written == page(), "write it again with python -m score_sde.fields.reference > docs/fields.md"
    assert all(f"| `{name}` |" in written for name in FIELDS)


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (
            "sampling.snr",
            ("config.sampling.snr", "default: 0.16", "from 0 to 10", "corrector is not none", "--mode=pareto"),
        ),
        ("--config.optim.lr", ("default: 0.0002", "learning rate after warm-up")),
        ("mesh", ("config.mesh.data", "config.mesh.fsdp")),
        ("t_min", ("config.objective.t_min", "config.sampling.t_min", "config.likelihood.t_min")),
    ],
)
def test_the_help_on_a_field_tells_its_default_values_meaning_and_what_reads_it(asked, parts, capsys):
    with pytest.raises(SystemExit) as caught:
        main([f"--help={asked}"])
    told = capsys.readouterr().out
    assert caught.value.code == 0 and all(part in told for part in parts), told


def test_the_help_on_a_misspelt_field_names_the_nearest(capsys):
    assert main(["--help=sampling.sr"]) == 2
    assert "no field or group 'sampling.sr'. Did you mean 'sampling.snr'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--workdir DIR" in capsys.readouterr().out


def test_the_bounds_of_the_averages_are_those_of_their_formulas():
    assert FIELDS["optim.ema_widths"].of.high == FIELDS["ema_width"].high == MAX_WIDTH
    assert FIELDS["optim.ema_widths"].lengths[1] == MAX_WIDTHS


NETWORK_SIZES = {
    "ncsnpp": ({}, (32, 32, 3)),
    "ddpm": ({"model.features": 64}, (32, 32, 3)),
    "ncsnv2_64": ({"model.features": 64}, (32, 32, 3)),
    "ncsn": ({"model.features": 32, "parameterization.num_scales": 1000}, (32, 32, 3)),
    "mlp": ({"model.features": 512, "model.num_blocks": 8}, (5,)),
    "vae": ({"model.widths": (512, 256), "model.channels": (32, 64), "objective.kind": "bound"}, (32, 32, 3)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", NETWORK_SIZES)
def test_the_estimate_of_a_networks_size_is_right_within_a_factor_of_two(name):
    changes, shape = NETWORK_SIZES[name]
    config = default_config()
    config.update_from_flattened_dict({"model.name": name, **changes})
    experiment = Experiment.from_config(config, shape, 256 if len(shape) == 3 else None, purposes=())
    shapes = jax.eval_shape(lambda: experiment.network.init(jax.random.key(0), (1, *shape)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    estimate = NETWORKS[name].num_parameters(dict(config.model), shape, config.parameterization.num_scales)
    assert 0.5 < estimate / count < 2.0, (estimate, count)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "changes", [{}, {"filters": 192, "components": 8}, {"filters": 32, "blocks": 5, "num_flows": 8}]
)
def test_the_estimate_of_a_dequantizers_size_is_right_within_a_factor_of_two(changes):
    fields, shape = dict(default_config().dequantizer) | {"name": "flowpp"} | changes, (16, 16, 3)
    dequantizer = make_dequantizer(fields, shape, 256)
    shapes = jax.eval_shape(lambda: dequantizer.init(jax.random.key(0), (1, *shape)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert 0.5 < dequantizer_count(fields, shape) / count < 2.0


COMMON = ("sde.schedule=cosine", "parameterization.output=v")


def problems(*overrides, purposes):
    config = load_config(None, [f"--config.{override}" for override in overrides])
    with pytest.raises(UserError) as caught:
        Experiment.from_config(config, (32, 32, 3), 256, purposes=purposes)
    return str(caught.value)


def test_all_that_is_wrong_is_said_at_once_and_only_what_the_purpose_reads():
    message = problems(*COMMON, "model.name=mlp", purposes=("train", "sample"))
    assert message.startswith("3 things are wrong:")
    assert all(part in message for part in ("objective.t_min", "sampling.predictor", "takes vectors (D,)"))
    assert "predictor" not in problems(*COMMON, purposes=("train",))
    config = load_config(None, [f"--config.{override}" for override in (*COMMON, "objective.t_min=1e-3")])
    Experiment.from_config(config, (32, 32, 3), 256, purposes=("train",))


@pytest.mark.parametrize(
    ("overrides", "purpose", "part"),
    [
        (
            ("model.num_classes=10",),
            "train",
            "num_classes is 10 and config.conditioning.classes is False: the network would learn one class",
        ),
        (("model.attention_resolutions=5",), "train", "have heights 32, 16, 8, 4, 2, 1; expected some of these"),
        (("model.fir=True", "model.fir_kernel=0,0"), "train", "fir_kernel is (0.0, 0.0); expected at least one weight"),
        (("model.features=65536", "model.channel_multipliers=1024"), "sample", "parameters"),
        (("training.batch_size=1048576", "data.prefetch=1000"), "train", "the batches kept ready would have"),
        (
            ("sampling.churn_min=2", "sampling.churn_max=1"),
            "sample",
            "churn_min is 2 and config.sampling.churn_max is 1",
        ),
        (("training.batch_size=1000000", "model.features=1024"), "train", "the feature maps of a batch would have"),
        (("dequantizer.filters=16384", "dequantizer.num_flows=64"), "dequantize", "dequantizer would have about"),
        (("likelihood.num_probes=10000", "likelihood.batch_size=1000000"), "likelihood", "numbers at a time"),
        (("sampling.predictor=none",), "sample", "predictor is none and config.sampling.corrector is none"),
        (
            ("sampling.predictor=none", "sampling.corrector=langevin", "sampling.num_corrections=0"),
            "sample",
            "predictor is none and config.sampling.num_corrections is 0: nothing would move",
        ),
        (
            ("sampling.predictor=reverse_diffusion", "sampling.num_steps=10"),
            "sample",
            "config.sampling.num_steps is 10: the step from t = 1 to 0.9001 is too long",
        ),
        (
            ("sampling.predictor=ancestral", "sampling.noise_scale=0.5"),
            "sample",
            "noise_scale is 0.5, and the predictor ancestral always adds the full noise",
        ),
        (("sampling.num_steps=100000", "parameterization.num_scales=100000", "sde.schedule=linear"), "sample", "pairs"),
        (
            ("model.input_frequencies=1", "model.damped_waves=True"),
            "sample",
            "damped_waves is True and config.parameterization.condition_on is time, which does not tell",
        ),
        (
            ("model.input_frequencies=1", "model.damped_waves=True", "parameterization.output=edm"),
            "sample",
            "damped_waves is True and the parameterization scales its inputs",
        ),
        (("model.name=ncsn",), "train", "config.model.name=ncsn looks up the number of a level"),
        (("sde.name=ve", "sde.schedule=linear"), "train", "expected continuous, geometric, uniform"),
    ],
)
def test_fields_that_do_not_go_together_are_refused_where_they_are_read(overrides, purpose, part):
    assert part in problems(*overrides, purposes=(purpose,))


def test_a_run_that_was_trained_with_what_is_refused_now_can_still_be_measured():
    config = load_config(None, ["--config.model.num_classes=10", "--config.model.attention_resolutions=5"])
    assert Experiment.from_config(config, (32, 32, 3), 256, purposes=("sample", "evaluate")).times is not None


@pytest.mark.parametrize(
    "text", ["frechet,kid", "(frechet, kid)", "['frechet','kid']", "('frechet', \"kid\",)", " frechet , kid "]
)
def test_a_tuple_may_be_written_in_any_of_the_usual_ways(text):
    assert load_config(None, [f"--config.evaluation.metrics={text}"]).evaluation.metrics == ("frechet", "kid")


def test_numbers_in_tuples_are_numbers():
    config = load_config(None, ["--config.model.widths=3,4", "--config.optim.ema_widths=0.05", "--config.data.shape="])
    assert (config.model.widths, config.optim.ema_widths, config.data.shape) == ((3, 4), (0.05,), ())


def test_weights_of_an_extractor_are_refused_where_the_data_are_points():
    config = load_config(None, ["--config.data.name=toy:moons", "--config.evaluation.weights=some.npz"])
    with pytest.raises(UserError, match=r"evaluation.weights is some.npz, and toy:moons are points"):
        extractor_of(config, source_info("toy:moons"))


def test_a_plan_of_training_does_not_mind_the_sampler():
    config = load_config(None, ["--config.sampling.predictor=adaptive", "--config.sampling.corrector=langevin"])
    assert undivided(config, (32, 32, 3), 256).event_shape == (32, 32, 3)
