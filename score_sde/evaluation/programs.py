"""Programs of a trained model that run without this package: JAX alone reads them, on a CPU, a GPU or a TPU.

A program is a file of :mod:`jax.export`, compiled where it is called, for any batch size. It takes the parameters of
``model.safetensors`` as its first argument, so that it is small, and keys as two numbers of 32 bits.
"""

import datetime
import importlib.util
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.errors import UserError, explained, unknown
from score_sde.evaluation.base import Purpose
from score_sde.evaluation.likelihood import BinNoise, combined, flow_program, log_levels
from score_sde.experiment import Experiment
from score_sde.interop.convert import flatten, unflatten
from score_sde.labels import Conditioned, Labeled
from score_sde.quantization import Quantization
from score_sde.typing import Params

PLATFORMS = ("cpu", "cuda", "tpu")
#: The time for which JAX promises to run a program in its later releases.
_WINDOW = datetime.timedelta(days=180)

Weights = dict[str, Array]  # parameters by path, such as "Conv_0/kernel"


class _Argument(NamedTuple):
    """An argument of a program after the parameters: its example in Python code, its shape and its type."""

    code: str
    shape: str
    dtype: str


class _Kind(NamedTuple):
    """A program: from the experiment to its function, and its arguments."""

    function: Callable[[Experiment], Callable[..., Any]]
    arguments: Callable[[str, str], tuple[_Argument, ...]]  # of the event's shape and the type of data
    meaning: str


_KEY = _Argument("jax.random.key_data(jax.random.key(0))", "2", "uint32")


def _given(weights: Weights, label: Array | None) -> Params:
    params = unflatten(weights)
    return params if label is None else Conditioned(params, label)


def _score(experiment: Experiment) -> Callable[..., Any]:
    def score(weights: Weights, x: Array, t: Array, label: Array | None = None) -> Array:
        inner, pull = jax.vjp(experiment.quantization.midpoints, x)
        return pull(experiment.score_fn(_given(weights, label))(inner, t))[0]

    return score


def _sampler(experiment: Experiment) -> Callable[..., Any]:
    sampler: Any = experiment.sampler
    if experiment.latent is not None:
        raise UserError("A variational autoencoder draws all samples from one key; expected a score network.")

    def sample(weights: Weights, key: Array, index: Array, label: Array | None = None) -> Array:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.wrap_key_data(key), index)
        x = sampler.of_keys(_given(weights, label), keys, experiment.event_shape).y
        return _as_data(experiment.quantization, x)

    return sample


def _as_data(quantization: Quantization, x: Array) -> Array:
    """``Quantization.quantize`` in JAX."""
    values, levels = quantization.unscaled(x), quantization.num_grey_levels
    if levels is None:
        return values
    return jnp.clip(jnp.floor(values + 0.5), 0, levels - 1).astype(jnp.uint8 if levels <= 256 else jnp.int32)


def _likelihood(experiment: Experiment) -> Callable[..., Any]:
    settings, noise = experiment.settings.likelihood, BinNoise()
    draw, shift = flow_program(experiment, noise), log_levels(experiment)

    def log_likelihood(weights: Weights, key: Array, x: Array, label: Array | None = None) -> Array:
        # The keys of the first batch of a measurement whose seed the key draws.
        root = jax.random.key(jax.random.bits(jax.random.wrap_key_data(key)))
        root = jax.random.fold_in(root, int(Purpose.LIKELIHOOD))
        keys = [jax.random.fold_in(jax.random.fold_in(root, n), 0) for n in range(settings.num_dequantizations)]
        batch = x if label is None else Labeled(x, label)
        draws = [draw(unflatten(weights), noise.params, key, batch) for key in keys]
        return combined(draws, importance=settings.importance_weighted)[0] - shift

    return log_likelihood


#: Programs by their names.
PROGRAMS: Mapping[str, _Kind] = MappingProxyType(
    {
        "sampler": _Kind(
            _sampler,
            lambda shape, dtype: (_KEY, _Argument("jnp.arange(16, dtype=jnp.uint32)", "b", "uint32")),
            "draws samples, the one of each index from the key",
        ),
        "likelihood": _Kind(
            _likelihood,
            lambda shape, dtype: (_KEY, _Argument("x", f"b, {shape}", dtype)),
            "gives the log-likelihood of every example in nats, by the probability flow",
        ),
        "score": _Kind(
            _score,
            lambda shape, dtype: (_Argument("x", f"b, {shape}", "float32"), _Argument("t", "b", "float32")),
            "gives the score of noisy data at the times t from 0 to 1",
        ),
    }
)


class Exported(NamedTuple):
    """An exported program."""

    name: str
    data: bytes
    sentence: str  # what it computes, where it runs, and how long
    example: str  # Python code that calls it

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.jax_export"


def export_program(experiment: Experiment, params: Params, name: str) -> Exported:
    """A program of the model, for :data:`PLATFORMS` and any batch size.

    Raises:
        UserError: For an unknown name, and if the configured sampler or likelihood cannot be exported.
    """
    if name not in PROGRAMS:
        raise unknown("program", name, PROGRAMS)
    kind, levels = PROGRAMS[name], experiment.quantization.num_grey_levels
    shape = ", ".join(map(str, experiment.event_shape))
    arguments = kind.arguments(shape, "float32" if levels is None else "uint8" if levels <= 256 else "int32")
    if experiment.num_classes:
        arguments += (_Argument("labels", "b", "int32"),)
    scope = jax.export.SymbolicScope()
    shapes = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(each.shape, scope=scope), each.dtype) for each in arguments
    ]
    weights = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in flatten(params).items()}
    function = kind.function(experiment)
    if importlib.util.find_spec("flatbuffers") is None:  # which JAX needs, and does not bring along
        raise UserError("Programs are written with the library flatbuffers, which is missing; pip install flatbuffers.")
    with explained(_unfit):
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(weights, *shapes)
    return Exported(name, bytes(exported.serialize()), _sentence(kind), _example(name, arguments))


def _unfit(error: Exception) -> UserError:
    said = str(error).strip().split("\n")[0]
    return UserError(
        f"This program cannot be exported for {', '.join(PLATFORMS)} and any batch size ({type(error).__name__}: "
        f"{said}); expected a sampler of fixed steps without corrector, or config.likelihood.num_steps=64."
    )


def _sentence(kind: _Kind) -> str:
    until = datetime.datetime.now(datetime.UTC).date() + _WINDOW
    return (
        f"The program {kind.meaning}. It needs JAX and flatbuffers alone, runs on {', '.join(PLATFORMS)} with any "
        f"batch size, and was written by JAX {jax.__version__}, which promises to run it in its releases of about six "
        f"months, to {until.isoformat()}. After that export it again."
    )


def _example(name: str, arguments: tuple[_Argument, ...]) -> str:
    called = ",\n    ".join(["weights", *(each.code for each in arguments)])
    return f"""from pathlib import Path
import jax, jax.export, jax.numpy as jnp, safetensors.numpy

arrays = safetensors.numpy.load_file("model.safetensors")
weights = {{name[11:]: array for name, array in arrays.items() if name.startswith("ema_params/")}}
program = jax.export.deserialize(bytearray(Path("{name}.jax_export").read_bytes()))
result = program.call(
    {called},
)"""
