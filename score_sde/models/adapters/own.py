"""Networks of the user's own, of any library: found out by their kind, and checked against the contract once."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.errors import UserError
from score_sde.fields.lines import Options
from score_sde.models.adapters.functions import FunctionNetwork
from score_sde.models.adapters.linen import LinenNetwork
from score_sde.outside.parts import Part
from score_sde.outside.purity import impure
from score_sde.typing import Batch, Labels, Network, Params, PRNGKey, Times


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run asks of a network.

    Attributes:
        event_shape: The shape of an example.
        num_classes: The number of classes; 0 for none.
        num_levels: The number of gray levels, if the output is a logit for each of them at every value.
        spans: Whether it is told the time between two times.
    """

    event_shape: tuple[int, ...]
    num_classes: int = 0
    num_levels: int | None = None
    spans: bool = False

    def output_shape(self, batch_size: int) -> tuple[int, ...]:
        """The shape of an output for a batch."""
        logits = () if self.num_levels is None else (self.num_levels,)
        return (batch_size, *self.event_shape, *logits)


_known: dict[Any, tuple[Network, Any]] = {}  # networks by part and arguments, with the object whose id is in the key
_KINDS = (
    "a Linen module, an NNX module or a function of rngs, an Equinox module or a function of key, a pair (init, apply) "
    "of functions, or a function that returns one of them"
)


def own_network(part: Part, options: Mapping[str, Any], asked: Asked) -> Network:
    """The network of a user's module, class or function, made and checked once for the same arguments.

    Raises:
        UserError: If it is no network, or breaks the contract.
    """
    key = (part.name, id(part.value), Options(options), asked)
    if key not in _known:
        network = _adapted(part, options, asked)
        if asked.num_classes:
            network = _WithClasses(network)
        part.calling(lambda: check_network(part, network, asked))
        _known[key] = network, part.value
    return _known[key][0]


def given_network(given: Any, asked: Asked) -> Network:
    """The network of an object that a program gives, of any of the kinds that ``config.model.name`` may name.

    Raises:
        UserError: If it is no network, or breaks the contract.
    """
    return own_network(Part("network", given, "model.name"), {}, asked)


def name_of(given: Any) -> str:
    """The name of a class or a function, else of the class of an object.

    >>> name_of(name_of), name_of(3.0), name_of((name_of, len))
    ('name_of', 'float', 'name_of and len')
    """
    if isinstance(given, tuple):
        return " and ".join(map(name_of, given))
    return getattr(given, "__qualname__", None) or type(given).__qualname__


def _adapted(part: Part, options: Mapping[str, Any], asked: Asked) -> Network:
    given = {"event_shape": asked.event_shape, "num_classes": asked.num_classes}
    if (seeded := _seeded(part)) is not None:
        return seeded(part.bound(options, **given))
    return _as_network(part, part.made(options, **given), asked)


def _seeded(part: Part) -> Callable[..., Network] | None:
    """The adapter of a class or function that draws its parameters when it is called; ``None`` for others."""
    if not part.makes or (isinstance(part.value, type) and issubclass(part.value, nn.Module)):
        return None
    if "rngs" in part.parameters:
        from score_sde.models.adapters.nnx import NNXNetwork

        return NNXNetwork
    if "key" in part.parameters and sys.modules.get("equinox") is not None:
        from score_sde.models.adapters.eqx import EquinoxNetwork

        return EquinoxNetwork
    return None


@dataclasses.dataclass(frozen=True)
class _WithClasses:
    """A network that always gets classes: -1 where there is none."""

    network: Network

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """The parameters of the network."""
        return self.network.init(key, shape)

    def apply(
        self,
        params: Params,
        x: Batch,
        condition: Times,
        *,
        label: Labels | None = None,
        key: PRNGKey | None = None,
        **span: Times,
    ) -> Any:
        """Its output."""
        label = jnp.full(x.shape[:1], -1) if label is None else label
        return self.network.apply(params, x, condition, label=label, key=key, **span)


def _as_network(part: Part, found: Any, asked: Asked) -> Network:
    if isinstance(found, nn.Module):
        return LinenNetwork(found, "float32", labeled=asked.num_classes > 0, spanned=asked.spans)
    if isinstance(found, tuple) and len(found) == 2 and all(map(callable, found)):
        return FunctionNetwork(*found)
    if isinstance(found, Network) and not isinstance(found, type):
        return found
    if any(cls.__module__.startswith(("equinox.", "flax.")) for cls in inspect.getmro(type(found))):
        raise part.refused(
            f"makes a {type(found).__name__} whose parameters are drawn already",
            "a class or function that draws them from its argument rngs (NNX) or key (Equinox), so that they follow "
            "the seed of the run",
        )
    raise part.refused(f"is, or makes, a {type(found).__name__}", _KINDS)


def check_network(part: Part, network: Network, asked: Asked) -> None:
    """Check what training and sampling rely on: parameters, shapes, types, purity, finite and independent outputs.

    Raises:
        UserError: With the clause that the network breaks.
    """
    shape, key = (2, *asked.event_shape), jax.random.key(0)
    params = jax.eval_shape(lambda key: network.init(key, shape), key)
    leaves = jax.tree.leaves(params)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        found = ", ".join(sorted({str(leaf.dtype) for leaf in leaves})) or "nothing"
        raise part.refused(f"has parameters of {found}", "floating-point arrays, one at least")
    if impure(lambda key: network.init(key, shape), key):
        raise part.refused("draws other parameters from the same key the second time", _PURE)
    label = jnp.zeros(2, jnp.int32) if asked.num_classes else None
    apply = functools.partial(network.apply, label=label)
    x, noise = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    if asked.spans:
        jax.eval_shape(apply, params, x, noise)  # the score has no span
        apply = functools.partial(apply, **{"span": jnp.full(2, 0.25)})
    output = jax.eval_shape(apply, params, x, noise)
    _check_shape(part, output, asked)
    if output.dtype != jnp.float32:
        raise part.refused(f"returns {output.dtype} for data of float32", "float32")
    if impure(apply, params, x, noise):
        raise part.refused("computes something else for the same arguments the second time", _PURE)
    trains = jax.eval_shape(lambda *given: apply(*given, key=key), params, x, noise)
    if getattr(trains, "shape", None) != output.shape:
        given = jax.tree.map(lambda leaf: leaf.shape, trains)
        raise part.refused(f"returns shape {given} in training for data of shape {shape}", "the same shape")
    _check_values(part, network, apply, shape)


def _check_shape(part: Part, output: Any, asked: Asked) -> None:
    shape, expected = (2, *asked.event_shape), asked.output_shape(2)
    if getattr(output, "shape", None) != expected:
        found = jax.tree.map(lambda leaf: leaf.shape, output)
        logits = f"{expected}, a logit for each of {asked.num_levels} gray levels (config.parameterization.output)"
        kind = "the shape of the data" if asked.num_levels is None else logits
        raise part.refused(f"returns shape {found} for data of shape {shape}", kind)


_PURE = "a function of its arguments alone: random numbers come from a key of JAX, and nothing is kept between calls"


def _check_values(part: Part, network: Network, apply: Callable[..., Any], shape: tuple[int, ...]) -> None:
    params = jax.jit(lambda key: network.init(key, shape))(jax.random.key(0))
    program = jax.jit(apply)
    x = np.random.RandomState(0).randn(*shape).astype(np.float32)
    others = np.concatenate([x[:1], 3.0 * x[1:] + 1.0])
    first, second = (np.asarray(program(params, jnp.asarray(data), jnp.full(2, 0.5))) for data in (x, others))
    if not np.isfinite(first).all():
        raise part.refused("returns numbers that are not finite, with its initial parameters", "finite numbers")
    if not np.allclose(first[0], second[0], rtol=1e-3, atol=1e-4):
        raise part.refused(
            "gives an example another output when the other examples of its batch change",
            "an output that depends on the example alone",
        )


def refuse_bfloat16(part: Part, dtype: str) -> None:
    """Refuse a precision that only the package's own networks know.

    Raises:
        UserError: If it is not float32.
    """
    if dtype != np.dtype(np.float32).name:
        raise UserError(
            f"config.model.dtype is {dtype}, which the networks of the package know; {part.name} chooses its own "
            "precision: expected float32."
        )
