"""Objectives, trackers and optimizers of a user, as ``tests.own_training:NAME``; one breaks every clause."""

import jax
import jax.numpy as jnp
import optax

from score_sde.objectives import score_matching_loss
from score_sde.typing import Loss
from tests.own_parts import called


# --- objectives and trackers ------------------------------------------------------------------------------------------
def scaled(process, network, parameterization, times, weighting, factor: float = 1.0):
    """Score matching times a factor."""
    loss = score_matching_loss(process, network, parameterization, times=times, weighting=weighting)
    return Loss(loss.draw, lambda *given: factor * loss.losses(*given))


def mean_loss(process, network, parameterization, times, weighting):
    loss = score_matching_loss(process, network, parameterization, times=times, weighting=weighting)
    return Loss(loss.draw, lambda *given: loss.losses(*given).mean())


def counted_loss(process, network, parameterization, times, weighting):
    loss = score_matching_loss(process, network, parameterization, times=times, weighting=weighting)
    return Loss(loss.draw, lambda *given: called() * loss.losses(*given))


def no_loss(process):
    return 0.0


def no_writer(workdir):
    return 0.0


# --- optimizers -------------------------------------------------------------------------------------------------------
def descent(learning_rate, momentum: float = 0.0):
    return optax.sgd(learning_rate, momentum=momentum)


def no_rate(momentum: float = 0.0):
    return optax.sgd(1e-3, momentum=momentum)


def no_optimizer(learning_rate):
    return learning_rate


def transformation(update):
    return lambda learning_rate: optax.GradientTransformation(lambda params: (), update)


nan_updates = transformation(lambda grads, state, params=None: (jax.tree.map(lambda g: g * jnp.nan, grads), state))
scalar_updates = transformation(lambda grads, state, params=None: (jax.tree.map(jnp.sum, grads), state))
counted_updates = transformation(lambda grads, state, params=None: (jax.tree.map(lambda g: g * called(), grads), state))
