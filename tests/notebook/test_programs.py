"""Exported programs: what the model computes, on every platform, with any batch size, and without this package."""

import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import score_sde
from score_sde.data import DataRecord
from score_sde.errors import UserError
from score_sde.evaluation.programs import PLATFORMS, PROGRAMS, export_program
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.interop.convert import flatten

flatbuffers = pytest.importorskip("flatbuffers")  # an optional dependency

FIELDS = {
    **{"model.features": 8, "model.channel_multipliers": (1,), "model.num_blocks": 1, "data.name": "digits"},
    **{"model.attention_resolutions": (), "sampling.predictor": "dpm_solver_2m", "sampling.grid": "log_snr"},
    **{"sampling.num_steps": 4, "likelihood.num_steps": 4, "model.init_scale": 1.0},
}


@pytest.fixture(scope="module", autouse=True)
def symbolic_sizes():
    """Batches of any size have no numbers for sizes, which the checks of types expect."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def untrained(num_classes=0, shape=(8, 8, 1), **changes):
    labels = {"conditioning.classes": num_classes > 0}
    settings = Settings().with_fields(FIELDS | labels | changes)
    options = {"num_classes": num_classes, "purposes": {"sample"}}
    experiment = Experiment.from_config(settings, shape, 17, **options)
    params = experiment.init_state().params
    data = DataRecord("digits", shape, 17, num_classes, {})
    return score_sde.Model(experiment=experiment, params=params, trained=params, step=0, data=data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of images, with its own sums over pixels, handed on with all programs."""
    return untrained().save(tmp_path_factory.mktemp("programs") / "folder", programs=tuple(PROGRAMS))


def call(folder, name, *arguments):
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    weights = {key[11:]: array for key, array in arrays.items() if key.startswith("ema_params/")}
    program = jax.export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes()))
    assert program.platforms == PLATFORMS
    return np.asarray(program.call(weights, *arguments))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_programs_compute_what_the_model_computes_for_any_batch(folder, key, count):
    model, raw = score_sde.load(folder), jax.random.key_data(key)
    x = model.sample(key, count)
    drawn = call(folder, "sampler", raw, jnp.arange(count, dtype=jnp.uint32))
    assert drawn.dtype == x.dtype and np.mean(drawn == x) > 0.99  # rounding may move a value to the next level
    floats, t = x.astype(np.float32) + 0.25, np.linspace(0.2, 0.8, count).astype(np.float32)
    assert np.allclose(call(folder, "score", floats, t), model.score(floats, t), rtol=1e-5, atol=1e-6)
    assert np.allclose(call(folder, "likelihood", raw, x), model.log_likelihood(key, x).logp, rtol=1e-6)


def test_programs_of_classes_take_them(key):
    """Vectors of gray levels, in two classes."""
    model = untrained(2, (3,), **{"model.name": "mlp"})
    exported = export_program(model.experiment, model.params, "score")
    assert "labels" in exported.example
    program = jax.export.deserialize(bytearray(exported.data))
    x, t, labels = np.float32([[1.0, 2.0, 3.0]] * 2), np.float32([0.5, 0.7]), np.int32([0, 1])
    score = program.call(flatten(model.params), x, t, labels)
    assert np.allclose(score, model.score(x, t, labels=labels), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="Did you mean 'sampler'"):
        export_program(model.experiment, model.params, "samplr")


def test_the_card_says_how_to_call_a_program_and_until_when(tmp_path):
    folder = untrained(shape=(3,), **{"model.name": "mlp"}).save(tmp_path / "model", programs=["score"])
    card = (folder / "README.md").read_text()
    assert "jax.export.deserialize" in card and "cpu, cuda, tpu" in card and f"JAX {jax.__version__}" in card
    given = "import numpy as np\nx = np.full((2, 3), 3.25, np.float32)\nt = np.array([0.3, 0.6], np.float32)\n"
    names = {}
    code = card.split("## Without the package")[1].split("```python\n")[1].split("```")[0]
    exec(
        given
        + code.replace('"model.safetensors"', repr(str(folder / "model.safetensors"))).replace(
            '"score.jax_export"', repr(str(folder / "score.jax_export"))
        ),
        names,
    )
    assert np.allclose(names["result"], score_sde.load(folder).score(names["x"], names["t"]), rtol=1e-5, atol=1e-6)


def test_a_sampler_of_adaptive_steps_is_exported_or_refused_with_a_remedy():
    model = untrained(shape=(3,), **{"model.name": "mlp", "sampling.predictor": "adaptive"})
    try:
        assert export_program(model.experiment, model.params, "sampler").data
    except UserError as error:
        assert "expected a sampler of fixed steps" in str(error)


RUN_ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("score_sde", "flax", "orbax", "diffrax", "equinox", "optax", "ml_collections"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
sys.path[:0] = SITE
import jax, jax.export, jax.numpy as jnp, numpy, safetensors.numpy
arrays = safetensors.numpy.load_file("model.safetensors")
weights = {name[11:]: array for name, array in arrays.items() if name.startswith("ema_params/")}
program = jax.export.deserialize(bytearray(open("sampler.jax_export", "rb").read()))
result = program.call(weights, jax.random.key_data(jax.random.key(0)), jnp.arange(5, dtype=jnp.uint32))
numpy.save(RESULT, result)
"""


@pytest.mark.slow
def test_a_program_runs_where_the_package_is_not(folder, key, tmp_path):
    """In an interpreter that can import neither this package nor Flax, Orbax and the others that it needs."""
    site = [os.path.dirname(os.path.dirname(module.__file__)) for module in (jax, flatbuffers)]
    script = RUN_ALONE.replace("SITE", repr(site)).replace("RESULT", repr(str(tmp_path / "alone.npy")))
    subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, check=True)
    assert np.mean(np.load(tmp_path / "alone.npy") == score_sde.load(folder).sample(key, 5)) > 0.99
