"""Tools of every measurement: a separate stream of random numbers, and the mean with its standard error."""

import enum
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.checkpointing.digests import mix
from score_sde.data import Source, eval_batches
from score_sde.data.identity import PLACE_FIELDS, statistics_to_json
from score_sde.distributed import shared_size, spread
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.typing import Params, PRNGKey

Progress = Callable[[int], Any]  # called with the number of newly finished examples


class Purpose(enum.IntEnum):
    """The purpose of a key; numbers 0 and 1 are taken by ``create_state``, which splits the same root."""

    LOSS = 2
    LIKELIHOOD = 3
    SAMPLES = 4
    LATENTS = 5
    BOUND = 6
    BUDGET = 7
    NOISE_LEVELS = 8
    PROGRESS = 9
    OBSERVATIONS = 10
    RESTORATIONS = 11
    CLASSES = 12
    CLASS_BOUNDS = 13
    NOISY_CLASSES = 14


def root_key(experiment: Experiment, purpose: Purpose) -> PRNGKey:
    """The root key of one kind of measurement, from the seed of the run or of the samples."""
    of_samples = purpose in (Purpose.SAMPLES, Purpose.RESTORATIONS)
    seed = sample_seed(experiment.settings) if of_samples else experiment.settings.seed
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def sample_seed(config: Settings) -> int:
    """The seed of the samples: ``sampling.seed``, or the seed of the run if it is -1."""
    return config.seed if config.sampling.seed < 0 else config.sampling.seed


class Examples(NamedTuple):
    """A batch of examples, split over the devices."""

    number: int  # of the batch
    data: Any  # ``(batch, *event)``, as stored by the source; with their labels in a run of classes
    mask: np.ndarray  # False for padding rows of the last batch


def examples(experiment: Experiment, source: Source, *, batch_size: int, limit: int = 0) -> Iterator[Examples]:
    """One pass over a source, or its first ``limit`` examples, in batches that divide evenly over the devices.

    The batch size is rounded up to a multiple of the number of devices.
    """
    total = min(limit or len(source), len(source))
    size = shared_size(experiment.mesh, min(batch_size, total))
    labels = experiment.num_classes > 0
    for index, batch in enumerate(eval_batches(source, batch_size=size, limit=total, labels=labels)):
        yield Examples(index, jax.tree.map(lambda part: spread(experiment.mesh, part), batch.examples), batch.mask)


def decisive_fields(config: Settings, groups: Collection[str]) -> dict[str, Any]:
    """The fields of some groups that decide a measurement.

    These are all but the paths of the data, and their standardization, whose statistics decide
    (:func:`statistics_of`).
    """
    fields = {name: value for name, value in config.to_dict().items() if name in groups}
    if "data" in fields:
        idle = {*PLACE_FIELDS, "standardize"}
        fields["data"] = {name: value for name, value in fields["data"].items() if name not in idle}
    return fields


def statistics_of(experiment: Experiment) -> list[dict[str, Any]]:
    """The statistics by which the data are standardized, for an identity; nothing for data as they are."""
    found = statistics_to_json(experiment.quantization.standardization)
    return [found] if found else []


def mean_and_std_error(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error (nan for a single value).

    >>> mean_and_std_error(np.array([1.0, 3.0]))
    (2.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def with_error(mean: float, error: float, *, digits: int = 4, unit: str = "") -> str:
    """A mean and its standard error in words.

    >>> with_error(1.0, 0.25, unit="bits/dim")
    '1.0000 +- 0.2500 bits/dim'
    >>> with_error(1.0, *mean_and_std_error(np.ones(1))[1:], digits=1)
    '1.0 (of one example, without an error)'
    """
    unit = f" {unit}" if unit else ""
    if math.isfinite(mean) and math.isnan(error):
        return f"{mean:.{digits}f}{unit} (of one example, without an error)"
    return f"{mean:.{digits}f} +- {error:.{digits}f}{unit}"


def _total(xp: Any, words: Iterable[Any]) -> Any:
    """One number from all words and their positions, in NumPy or JAX."""
    total = xp.zeros(1, xp.uint32)
    for bits in words:
        place = xp.arange(bits.size, dtype=xp.uint32).reshape(bits.shape)
        # A wrapping sum of integers does not depend on the order.
        added = xp.sum(mix(bits ^ (place * xp.uint32(0x9E3779B9))), dtype=xp.uint32)
        total = total * xp.uint32(2654435761) + added
    return total[0]


@jax.jit
def _total_on_devices(params: Params) -> Array:
    leaves = jax.tree.leaves(params)
    unsigned = (jnp.dtype(f"uint{8 * leaf.dtype.itemsize}") for leaf in leaves)
    kinds = zip(leaves, unsigned, strict=True)
    return _total(jnp, (jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32) for leaf, kind in kinds))


def _total_on_host(params: Params) -> np.uint32:
    # Arrays of at least one axis, for NumPy warns of products of single numbers that wrap.
    arrays = (np.atleast_1d(np.ascontiguousarray(leaf)) for leaf in jax.tree.leaves(params))
    return _total(np, (array.view(f"u{array.dtype.itemsize}").astype(np.uint32) for array in arrays))


def fingerprint(params: Params) -> str:
    """Eight hexadecimal digits that identify parameters, independent of their sharding.

    >>> fingerprint({"a": jnp.arange(3.0)}) == fingerprint({"a": jnp.arange(3.0) + 1e-6})
    False
    """
    # On a CPU the program would take longer to compile than all of its runs.
    total = _total_on_host if all(map(_is_at_hand, jax.tree.leaves(params))) else _total_on_devices
    return f"{int(total(params)):08x}"


def _is_at_hand(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable and all(device.platform == "cpu" for device in leaf.devices())
