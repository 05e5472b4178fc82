"""Training on labels: any loss of a network, for batches with a class for each example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from score_sde.arguments import check_labeled, not_fulfilled
from score_sde.errors import refuse
from score_sde.fields import DEFAULTS
from score_sde.keys import example_keys
from score_sde.labels import Conditioned, Labeled
from score_sde.typing import Labels, Loss, Number, Params, PRNGKey, Times

_DROPPING = 2**31  # purpose of a key; losses split theirs into a few


def class_conditional(loss: Loss, null_probability: Number = DEFAULTS.conditioning.null_probability) -> Loss:
    """A loss for batches with labels, :class:`~score_sde.labels.Labeled`, from one for batches without.

    In training each example loses its label with a probability, independently of the others, so that one network learns
    the scores with and without a class (Ho & Salimans 2022, arXiv 2207.12598, algorithm 1). Like dropout this needs the
    key of the dropout: losses without it are of the labels as given.

    The given loss reads classes from its parameters (:class:`~score_sde.labels.Conditioned`), as every loss of this
    package does.

    Raises:
        UserError: If the probability is not one; on a batch without labels.

    >>> from score_sde import VP
    >>> from score_sde.objectives import UniformTimes, score_matching_loss, variance_weighting
    >>> from score_sde.parameterization import NoisePrediction
    >>> class Network:
    ...     def init(self, key, shape): return {}
    ...     def apply(self, params, x, condition, *, label=None, key=None): return 0.0 * x + label[:, None]
    >>> options = {"times": UniformTimes(), "weighting": variance_weighting}
    >>> loss = class_conditional(score_matching_loss(VP(), Network(), NoisePrediction(), **options))
    >>> batch = Labeled(jnp.zeros((2, 3)), jnp.array([0, 1000]))
    >>> [float(value) > 1e5 for value in loss({}, jax.random.key(0), batch, train=False)]
    [False, True]
    """
    refuse(not_fulfilled("null_probability", null_probability, lambda p: (p >= 0.0) & (p <= 1.0), "0 to 1"))

    def draw(key: PRNGKey, batch: Any) -> tuple[Any, PRNGKey]:
        check_labeled(batch)
        draws, dropout_key = loss.draw(key, batch.data)
        return (draws, dropped(jax.random.fold_in(key, _DROPPING), batch.data, null_probability)), dropout_key

    def losses(params: Params, batch: Labeled, draws: Any, dropout_key: PRNGKey | None) -> Times:
        own, without = draws
        label = batch.label if dropout_key is None else jnp.where(without, -1, batch.label)
        return loss.losses(Conditioned(params, label), batch.data, own, dropout_key)

    def scheduled(step: Int[Array, ""]) -> Loss:
        return class_conditional(loss.at(step), null_probability)

    return Loss(draw, losses, None if loss.scheduled is None else scheduled)


def given_labels(make: Callable[[Labels], Loss]) -> Loss:
    """The loss for batches with labels that consists of a loss for given labels, such as one with a fixed model.

    >>> toy = lambda label: Loss(lambda key, x: ((), key), lambda params, x, draws, key: x[:, 0] + label)
    >>> batch = Labeled(jnp.ones((2, 1)), jnp.arange(2))
    >>> given_labels(toy)({}, jax.random.key(0), batch, train=False).tolist()
    [1.0, 2.0]
    """

    def draw(key: PRNGKey, batch: Labeled) -> tuple[Any, PRNGKey]:
        return make(batch.label).draw(key, batch.data)

    def losses(params: Params, batch: Labeled, draws: Any, dropout_key: PRNGKey | None) -> Times:
        return make(batch.label).losses(params, batch.data, draws, dropout_key)

    return Loss(draw, losses)


def dropped(key: PRNGKey, x: Array, probability: Number) -> Bool[Array, " batch"]:
    """Which examples of a batch lose their label: each with a probability, by its own key.

    >>> dropped(jax.random.key(0), jnp.zeros((3, 2)), 1.0).tolist()
    [True, True, True]
    """
    return jax.vmap(lambda own: jax.random.uniform(own) < probability)(example_keys(key, x))
