"""Scores for the classes that parameters are conditioned on (:class:`score_sde.labels.Conditioned`), with guidance."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_sde.conditioning.guidance import classifier_free, halves, is_off
from score_sde.labels import Conditioned, unconditioned
from score_sde.typing import Batch, Labels, Number, Params, ScoreFn, Times
from score_sde.variational import NoiseAndFraction, PredictFn


def class_score(score_of: Callable[[Params], ScoreFn], params: Params, scale: Number = 1.0, **limits: Any) -> ScoreFn:
    """The score of parameters, guided by the classes that they are conditioned on, if they are.

    Args:
        score_of: From parameters, conditioned or not, to the score of the network.
        params: The parameters.
        scale: The scale of :func:`classifier_free`: 1 is the score of the class, 0 the score without one.
        limits: ``interval``, ``rescale`` and ``process`` of :func:`classifier_free`.

    >>> score_of = lambda params: lambda x, t: params.label[:, None] - x  # of N(label, 1); -1 stands for no class
    >>> score = class_score(score_of, Conditioned({}, jnp.array([3])), 2.0)
    >>> score(jnp.zeros((1, 1)), jnp.ones(1)).tolist()
    [[7.0]]
    """
    own, label = unconditioned(params)
    if label is None:
        return score_of(params)

    def labeled(x: Batch, t: Times, labels: Labels) -> Batch:
        return score_of(Conditioned(own, labels))(x, t)

    return classifier_free(*halves(labeled, label), scale, **limits)


def class_prediction(
    predict_of: Callable[[Params], PredictFn], params: Params, scale: Number = 1.0, **limits: Any
) -> PredictFn:
    """Noise and variance fraction of parameters, with the noise guided as in :func:`class_score`.

    The fraction is of the class. Arguments are as there, with a prediction in place of the score.
    """
    own, label = unconditioned(params)
    if label is None:
        return predict_of(params)

    def predict(x: Batch, t: Times) -> NoiseAndFraction:
        both = predict_of(Conditioned(own, jnp.concatenate([label, jnp.full_like(label, -1)])))
        noise, fraction = both(jnp.concatenate([x, x]), jnp.concatenate([t, t]))
        given, free = jnp.split(noise, 2)
        # Noises and scores of a time differ by a factor, which guidance leaves as it is.
        guided = classifier_free(lambda x, t, /: given, lambda x, t, /: free, scale, **limits)
        return NoiseAndFraction(guided(x, t), jnp.split(fraction, 2)[0])

    return predict_of(params) if is_off(scale, limits.get("interval")) else predict
