"""What the methods of a model are given: arguments that are not traced, and classes that the model knows."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from score_sde.errors import UserError
from score_sde.experiment import Experiment


def check_untraced(method: str, *arguments: Any) -> None:
    """Refuse the arguments that ``jit``, ``vmap`` and ``grad`` put in the place of arrays."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments)):
        raise UserError(
            f"Model.{method} is called under jit, vmap or grad, but runs batch after batch and returns NumPy arrays. "
            "Call it outside; Model.score may be traced, and so may the functions of score_sde.sampling, "
            "score_sde.solvers and score_sde.likelihood."
        )


def needed_classes(experiment: Experiment, labels: Any, count: int) -> np.ndarray | None:
    """The classes of given examples, which a model of classes, or a classifier, must know."""
    if labels is None and experiment.sampled_classes:
        none = ", or -1 for none" if _knows_none(experiment) else ""
        raise UserError(f"The model knows classes; give labels, one for each or one for all{none}.")
    return None if labels is None else classes_of(experiment, labels, count)


def _knows_none(experiment: Experiment) -> bool:
    """Whether -1 stands for no class: training dropped labels, and no classifier guides to a class."""
    return experiment.classifier is None and experiment.settings.conditioning.null_probability > 0.0


def classes_of(experiment: Experiment, labels: Any, count: int) -> np.ndarray:
    """The classes of so many examples, from one for each or one for all, if the model knows them."""
    given, classifier = np.asarray(labels), experiment.classifier
    classes = experiment.num_classes if classifier is None else classifier.num_classes
    least = -1 if _knows_none(experiment) else 0
    if not classes:
        raise UserError("The model was trained without labels, and knows no classes; leave labels out.")
    if (
        given.dtype.kind not in "iu"
        or given.shape not in ((), (count,))
        or not (least <= given.min() <= given.max() < classes)
    ):
        raise UserError(
            f"labels are {given.dtype} of shape {given.shape}, {np.unique(given)[:5]}; expected classes from 0 to "
            f"{classes - 1}{', or -1 for none' * (least < 0)}: one, or {count}."
        )
    return np.broadcast_to(given.astype(np.int32), (count,))
