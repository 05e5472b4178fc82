"""Labels: examples with a class each, and parameters with the classes of the examples that they are asked about.

The module needs no JAX, so that processes that only read data do not load it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Labeled(NamedTuple):
    """Examples with a class each: the batch of a class-conditional run. Its fields may be shapes or shardings too."""

    data: Any  # the examples, of shape ``(batch, *event)``
    label: Any  # the class of each, of shape ``(batch,)``; -1 for none


class Conditioned(NamedTuple):
    """The parameters of a network, and the class of each example of the batch that it will see.

    Together they are a network without classes: a function of parameters, such as a score, a loss or a sampler, takes
    them in place of the parameters alone.
    """

    params: Any
    label: Any  # the class of each example; -1 for none


class Guided(NamedTuple):
    """The parameters of a network, and of a classifier whose gradient guides its samples."""

    params: Any
    classifier: Any


class Taught(NamedTuple):
    """The parameters of a network that is trained, and of its teacher, which stay."""

    params: Any
    teacher: Any


def data_of(batch: Any) -> Any:
    """The examples of a batch, without their labels."""
    return batch.data if isinstance(batch, Labeled) else batch


def on_data(function: Callable[[Any], Any], batch: Any) -> Any:
    """A batch with a function applied to its examples; their labels stay.

    >>> on_data(abs, Labeled(np.array([-2.0]), np.array([-1]))), on_data(abs, -3)
    (Labeled(data=array([2.]), label=array([-1])), 3)
    """
    return batch._replace(data=function(batch.data)) if isinstance(batch, Labeled) else function(batch)


def stacked(batches: Sequence[Any]) -> Any:
    """Batches of one kind, stacked along a new first axis.

    >>> stacked([Labeled(np.zeros((4, 2)), np.zeros(4))] * 3).data.shape, stacked([np.zeros(4)] * 3).shape
    ((3, 4, 2), (3, 4))
    """
    if isinstance(batches[0], Labeled):
        return Labeled(*(np.stack(parts) for parts in zip(*batches, strict=True)))
    return np.stack(batches)


def conditioned(params: Any, batch: Any) -> tuple[Any, Any]:
    """The parameters for the classes of a batch, and its examples; the parameters alone for one without labels.

    >>> given, data = conditioned({}, Labeled(np.zeros((2, 3)), np.arange(2)))
    >>> given.label.tolist(), data.shape, conditioned({}, data)[0]
    ([0, 1], (2, 3), {})
    """
    return (Conditioned(params, batch.label), batch.data) if isinstance(batch, Labeled) else (params, batch)


def unconditioned(params: Any) -> tuple[Any, Any]:
    """The parameters alone, and the classes that they are given with, if any.

    >>> unconditioned(Conditioned({"w": 1.0}, [3])), unconditioned({"w": 1.0})
    (({'w': 1.0}, [3]), ({'w': 1.0}, None))
    """
    return (params.params, params.label) if isinstance(params, Conditioned) else (params, None)


def unconditional(params: Any, indices: Any) -> Any:
    """The parameters for some samples of a network without classes: the parameters alone, whatever their indices."""
    del indices
    return params
