r"""Augmentation that does not leak: the network is told how its data were changed (Karras et al. 2022, appendix F.2).

Told of no change, as it is in sampling and in every measurement, it models the data as they are. The changes are those
that are exact on a grid of pixels: both mirror images, quarter turns of squares, and shifts by whole pixels, with what
is beyond the border reflected. The paper has scalings, rotations by any angle and shifts by parts of a pixel besides.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde.arguments import not_fulfilled
from score_sde.errors import refuse
from score_sde.keys import example_keys
from score_sde.labels import data_of, on_data
from score_sde.typing import Batch, Loss, Network, Number, Output, Params, PRNGKey, Times

#: How many numbers tell of an augmentation.
NUM_AUGMENTATIONS = 6

_AUGMENTING = 2**31 + 1  # purpose of a key; losses split theirs into a few
_NAME = "told"  # of what the network is told, beside its parameters
_REACH = 8  # the largest shift is this part of the side


class Augmentations(NamedTuple):
    """How each image of a batch is changed, in this order."""

    mirrored: Bool[Array, " batch"]  # left to right
    inverted: Bool[Array, " batch"]  # top to bottom
    turns: Int[Array, " batch"]  # quarter turns
    shift: Int[Array, "batch 2"]  # pixels down and to the right


def draw_augmentations(key: PRNGKey, x: Batch, probability: Number) -> Augmentations:
    """Each kind of change is drawn with a probability, for each image by its own key, evenly among all of the kind.

    The images are of shape ``(batch, height, width, channels)``. Others than squares are not turned.
    """
    _, height, width, _ = x.shape
    turns, most = 4 if height == width else 1, jnp.array([height // _REACH, width // _REACH])

    def draw(key: PRNGKey) -> Augmentations:
        applied_key, flip_key, turn_key, shift_key = jax.random.split(key, 4)
        applied = jax.random.uniform(applied_key, (4,)) < probability
        flips = applied[:2] & jax.random.bernoulli(flip_key, shape=(2,))
        turned = jax.random.randint(turn_key, (), 0, turns)
        shift = jax.random.randint(shift_key, (2,), -most, most + 1)
        return Augmentations(flips[0], flips[1], jnp.where(applied[2], turned, 0), jnp.where(applied[3], shift, 0))

    return jax.vmap(draw)(example_keys(key, x))


def augment(x: Batch, augmentations: Augmentations) -> Batch:
    """The changed images.

    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> no, still = jnp.array([False]), jnp.zeros((1, 2), int)
    >>> augment(x, Augmentations(no, no, jnp.array([1]), still)).reshape(2, 2).tolist()  # counterclockwise
    [[1.0, 3.0], [0.0, 2.0]]
    """
    square = x.shape[1] == x.shape[2]

    def change(image: Array, own: Augmentations) -> Array:
        image = jnp.where(own.mirrored, image[:, ::-1], image)
        image = jnp.where(own.inverted, image[::-1], image)
        if square:
            image = jnp.where(own.turns % 2 == 1, jnp.rot90(image), image)
            image = jnp.where(own.turns >= 2, image[::-1, ::-1], image)
        for axis in (0, 1):
            image = jnp.take(image, _reflected(image.shape[axis], own.shift[axis]), axis=axis)
        return image

    return jax.vmap(change)(x, augmentations)


def _reflected(size: int, shift: Int[Array, ""]) -> Int[Array, " size"]:
    """The places of the pixels after a shift, reflected at the first and the last."""
    last = size - 1
    return last - jnp.abs(last - (jnp.arange(size) - shift) % max(2 * last, 1))


def told(x: Batch, augmentations: Augmentations) -> Float[Array, "batch kinds"]:
    """What the network is told: numbers between -1 and 1, which are all 0 for an image as it is."""
    mirrored, inverted, turns, shift = augmentations
    most = jnp.maximum(jnp.array(x.shape[1:3]) // _REACH, 1)
    flags = (mirrored, inverted, (turns == 1) | (turns == 2), turns >= 2)
    return jnp.concatenate([jnp.stack(flags, axis=1).astype(x.dtype), (shift / most[None, :]).astype(x.dtype)], axis=1)


@dataclasses.dataclass(frozen=True)
class ToldAugmentations:
    """A network that takes ``augmentations``, as one that finds them beside its parameters, a dictionary.

    Without them it is told of none: ``augmentations`` is not given.

    Attributes:
        network: The network.
    """

    network: Network

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """The parameters of the network."""
        return self.network.init(key, shape)

    def apply(self, params: Params, x: Batch, condition: Times, **given: Any) -> Output:
        """The output of the network."""
        if _NAME in params:
            params = dict(params)
            given["augmentations"] = params.pop(_NAME)
        return self.network.apply(params, x, condition, **given)


def augmented(loss: Loss, probability: Number) -> Loss:
    """A loss of augmented images, of a network that is told of the augmentations: :class:`ToldAugmentations`.

    It is for training alone: measurements take the loss of the images as they are.

    Args:
        loss: The loss, for batches with labels or without.
        probability: The probability of each kind of change; with 0 the loss is the given one.

    Raises:
        UserError: If the probability is not one.
    """
    refuse(not_fulfilled("probability", probability, lambda p: (p >= 0.0) & (p <= 1.0), "0 to 1"))

    def draw(key: PRNGKey, batch: Any) -> tuple[Any, PRNGKey]:
        drawn = draw_augmentations(jax.random.fold_in(key, _AUGMENTING), data_of(batch), probability)
        draws, dropout_key = loss.draw(key, on_data(lambda x: augment(x, drawn), batch))
        return (draws, drawn), dropout_key

    def losses(params: Params, batch: Any, draws: Any, dropout_key: PRNGKey | None) -> Times:
        own, drawn = draws
        known = {**params, _NAME: told(data_of(batch), drawn)}
        return loss.losses(known, on_data(lambda x: augment(x, drawn), batch), own, dropout_key)

    def scheduled(step: Int[Array, ""]) -> Loss:
        return augmented(loss.at(step), probability)

    return Loss(draw, losses, None if loss.scheduled is None else scheduled)
