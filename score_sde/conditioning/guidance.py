r"""Guidance: score functions that point further towards a condition than the score of the model does.

All functions go from score functions to a score function, which every solver, adaptive sampler and likelihood takes. A
guided score is in general the score of no process: the flow and the reverse SDE that follow it have laws of their own
(section 11 of ``docs/mathematics.md``).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.arguments import labels_of, not_fulfilled, of_examples, of_shape, rows, score_at
from score_sde.errors import UserError, refuse
from score_sde.processes import Process
from score_sde.typing import Batch, Labels, Number, ScoreFn, Times, event_sum, expand_like, holds, is_known

#: The scores of a batch with a class for each example, ``(x, t, labels)``.
LabeledScoreFn: TypeAlias = Callable[[Batch, Times, Labels], Batch]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """The score of one network for fixed labels; two halves of one network are evaluated as one batch.

    Attributes:
        labeled: The score of a batch and its labels.
        labels: One class for each example, or one for all.
    """

    labeled: LabeledScoreFn
    labels: Any

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        """The score of every example for its label."""
        return self.labeled(x, t, self.labels_of(x))

    def labels_of(self, x: Batch) -> Labels:
        """A label for each example.

        Raises:
            UserError: If there is another number of them.
        """
        return labels_of(self.labels, x)

    def of_examples(self, indices: Array) -> "Half":
        """The score of some examples of the batch."""
        return dataclasses.replace(self, labels=rows(self.labels, indices))


def halves(labeled: LabeledScoreFn, labels: Any, null: int = -1) -> tuple[Half, Half]:
    """The conditional and the unconditional score of one network, which :func:`classifier_free` evaluates together.

    Args:
        labeled: The score of a batch and its labels, ``(x, t, labels)``.
        labels: One class for each example, or one for all.
        null: The label that stands for no class.

    Raises:
        UserError: If the labels are not whole numbers.

    >>> labeled = lambda x, t, labels: labels[:, None] - x  # of N(label, 1)
    >>> score = classifier_free(*halves(labeled, jnp.array([3, 7]), null=0), scale=2.0)
    >>> score(jnp.zeros((2, 1)), jnp.ones(2)).tolist()
    [[6.0], [14.0]]
    """
    if not jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer) or jnp.ndim(labels) > 1:
        raise UserError(
            f"The labels are {jnp.asarray(labels).dtype} of shape {jnp.shape(labels)}; expected whole numbers, one for "
            "each example or one for all."
        )
    return Half(labeled=labeled, labels=labels), Half(labeled=labeled, labels=null)


def classifier_free(
    conditional: ScoreFn,
    unconditional: ScoreFn,
    scale: Number,
    interval: tuple[Number, Number] | None = None,
    rescale: Number = 0.0,
    *,
    process: Process | None = None,
) -> ScoreFn:
    r"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, eq. 6, with ``scale = 1 + w``).

        u + scale (c - u),    c the conditional score and u the unconditional one,

    so 1 is off and 0 forgets the condition. The flow of a guided score does not sample the tilted density
    ``p_c^scale p_u^(1 - scale)``: between Gaussians its variance is the geometric mean ``v_c^scale v_u^(1 - scale)``.

    Args:
        conditional: The score given the condition. The halves of one network (:func:`halves`) take one evaluation.
        unconditional: The score without it.
        scale: One number, or one for each example. At 1 and at 0 the result is the conditional and the unconditional
            score, bit for bit.
        interval: Noise-to-signal ratios ``s / m`` within which guidance applies, ``low < s / m <= high``
            (Kynkäänniemi et al. 2024, arXiv 2404.07724). Outside, the score is the conditional one.
        rescale: How far the std of a guided score, over the values of an example, moves back to the std of the
            conditional score: 0 leaves it, 1 restores it (Lin et al. 2024, arXiv 2305.08891, section 3.4).
        process: The forward process, which turns times into noise-to-signal ratios; needed for an interval that is
            not empty.

    Raises:
        UserError: If the scale is negative or not finite, the interval is not one, ``rescale`` is not a fraction, or
            there is an interval and no process.

    >>> score = classifier_free(lambda x, t: 1.0 - x, lambda x, t: -x, 3.0)
    >>> score(jnp.zeros((1, 1)), jnp.ones(1)).tolist()
    [[3.0]]
    """
    refuse([*_bad_scale(scale), *_bad_interval(interval, process)])
    refuse(not_fulfilled("rescale", rescale, _is_fraction, "a fraction, from 0 to 1"))
    if is_off(scale, interval):
        return conditional
    if _is(scale, 0.0) and interval is None and _is(rescale, 0.0):
        return unconditional
    return _Extrapolated(conditional, unconditional, scale, interval, rescale, process)


def is_off(scale: Number, interval: tuple[Number, Number] | None = None) -> bool:
    """Whether :func:`classifier_free` is known to be the conditional score everywhere."""
    return _is_empty(interval) or _is(scale, 1.0)


def autoguidance(score: ScoreFn, weaker: ScoreFn, scale: Number) -> ScoreFn:
    """Guidance by a weaker version of the model itself (Karras et al. 2024, arXiv 2406.02507, section 3).

    ``weaker + scale (score - weaker)``: 1 is off. The weaker model, smaller or trained for less time, makes the same
    errors on a larger scale, and the difference points away from them. Both may be conditional.

    Args:
        score: The score of the model.
        weaker: The score of the weaker one.
        scale: One number, or one for each example.

    Raises:
        UserError: If the scale is negative or not finite.

    >>> score = autoguidance(lambda x, t: -x, lambda x, t: -0.5 * x, 2.0)
    >>> score(jnp.ones((1, 1)), jnp.ones(1)).tolist()
    [[-1.5]]
    """
    return classifier_free(score, weaker, scale)


def classifier_guidance(score_fn: ScoreFn, log_prob: Callable[[Batch, Times], Times], scale: Number = 1.0) -> ScoreFn:
    r"""Guidance by the gradient of a classifier of noisy data (Song et al. 2021, eq. 14; Dhariwal & Nichol 2021).

        score(x, t) + scale grad_x log p(y | x, t)

    With scale 1 and an exact classifier it is the conditional score, by Bayes' rule; 0 is off.

    Args:
        score_fn: The unconditional score.
        log_prob: ``log p(y | x, t)`` in nats for every example; an example must not depend on its neighbors.
        scale: One number, or one for each example.

    Raises:
        UserError: If the scale is negative or not finite; on evaluation, if there is not one log-probability for each
            example.

    >>> score = classifier_guidance(lambda x, t: -x, lambda x, t: -0.5 * (x[:, 0] - 1.0) ** 2, 2.0)
    >>> score(jnp.zeros((1, 1)), jnp.ones(1)).tolist()
    [[2.0]]
    """
    refuse(_bad_scale(scale))
    return score_fn if _is(scale, 0.0) else _Classified(score_fn, log_prob, scale)


@dataclasses.dataclass(frozen=True, eq=False)
class _Classified:
    score_fn: ScoreFn
    log_prob: Callable[[Batch, Times], Times]
    scale: Number

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        def total(x: Batch) -> Array:
            return jnp.sum(of_shape(self.log_prob(x, t), x.shape[:1], "log-probability"))

        return score_at(self.score_fn, x, t) + _of_each(self.scale, x) * jax.grad(total)(x)

    def of_examples(self, indices: Array) -> "_Classified":
        score_fn, log_prob = (of_examples(part, indices) for part in (self.score_fn, self.log_prob))
        return _Classified(score_fn, log_prob, rows(self.scale, indices))


@dataclasses.dataclass(frozen=True, eq=False)
class _Extrapolated:
    conditional: ScoreFn
    unconditional: ScoreFn
    scale: Number
    interval: tuple[Number, Number] | None
    rescale: Number
    process: Process | None

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        given, free = _both(self.conditional, self.unconditional, x, t)
        scale = _of_each(self.scale, x)
        guided = jnp.where(scale == 0.0, free, jnp.where(scale == 1.0, given, free + scale * (given - free)))
        if not _is(self.rescale, 0.0):
            guided = jnp.where(scale == 1.0, given, guided * _rescaling(given, guided, self.rescale))
        if self.interval is None or self.process is None:
            return guided
        ratio = jnp.exp(-0.5 * self.process.log_snr(t))
        inside = (ratio > self.interval[0]) & (ratio <= self.interval[1])
        return jnp.where(inside.reshape(inside.shape + (1,) * (x.ndim - 1)), guided, given)

    def of_examples(self, indices: Array) -> "_Extrapolated":
        conditional, unconditional = (of_examples(part, indices) for part in (self.conditional, self.unconditional))
        scale = rows(self.scale, indices)
        return dataclasses.replace(self, conditional=conditional, unconditional=unconditional, scale=scale)


def _both(conditional: ScoreFn, unconditional: ScoreFn, x: Batch, t: Times) -> tuple[Batch, Batch]:
    """The two scores; the halves of one network in one evaluation."""
    if not (
        isinstance(conditional, Half)
        and isinstance(unconditional, Half)
        and conditional.labeled is unconditional.labeled
    ):
        return score_at(conditional, x, t), score_at(unconditional, x, t)
    labels = jnp.concatenate([conditional.labels_of(x), unconditional.labels_of(x)])
    twice = jnp.concatenate([x, x])
    scores = conditional.labeled(twice, jnp.concatenate([t, t]), labels)
    given, free = jnp.split(of_shape(scores, twice.shape, "score"), 2)
    return given, free


def _rescaling(given: Batch, guided: Batch, share: Number) -> Array:
    """The factor that moves the std of each guided example towards the std of the conditional one."""

    def variance(values: Batch) -> Times:
        centered = values - expand_like(event_sum(values) / values[0].size, values)
        return event_sum(centered**2)

    wanted, found = variance(given), variance(guided)
    known = (wanted > 0.0) & (found > 0.0)
    ratio = jnp.sqrt(jnp.where(known, wanted, 1.0) / jnp.where(known, found, 1.0))
    return expand_like(share * ratio + (1.0 - share), guided)


def _is(value: Any, number: float) -> bool:
    """Whether a value is known to be a number throughout."""
    return is_known(value) and bool(np.all(np.asarray(value) == number))


def _of_each(scale: Number, x: Batch) -> Array:
    """A scale for all examples or one for each, ready to multiply a batch.

    Raises:
        UserError: If there is another number of them.
    """
    scale = jnp.asarray(scale, x.dtype)
    return expand_like(scale if scale.ndim == 0 else of_shape(scale, x.shape[:1], "scale"), x)


def _bad_scale(scale: Number) -> Iterator[str]:
    expected = "a finite number of at least 0, or one for each example"
    yield from not_fulfilled("scale", scale, lambda w: np.isfinite(w) & (w >= 0.0) & (w.ndim < 2), expected)


def _is_fraction(share: np.ndarray) -> Any:
    return (share >= 0.0) & (share <= 1.0) & (share.ndim == 0)


def _is_empty(interval: tuple[Number, Number] | None) -> bool:
    """Whether an interval is known to hold no noise level."""
    return interval is not None and _are_two(interval) and is_known(*interval) and interval[0] == interval[1]


def _are_two(interval: Any) -> bool:
    return isinstance(interval, tuple | list) and len(interval) == 2 and not any(map(np.ndim, interval))


def _bad_interval(interval: tuple[Number, Number] | None, process: Process | None) -> Iterator[str]:
    if interval is None:
        return
    # With more than two bounds, or one for each example, the comparison below would mean something else.
    if not _are_two(interval) or not holds(lambda low, high: (low >= 0.0) & (low <= high), *interval):
        yield f"interval is {interval}; expected two noise-to-signal ratios s / m, the lower first."
    elif process is None and not _is_empty(interval):
        yield "There is an interval of noise-to-signal ratios and no process; expected process=, such as VP()."
