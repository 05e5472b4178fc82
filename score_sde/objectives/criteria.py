r"""Training by any member of the score matching family, as losses for the training loop.

A criterion is a loss of :mod:`score_sde.objectives.family` with its random numbers. It trains a network on unperturbed
data (:func:`static_score_matching_loss`), or at every noise level of a process in place of denoising
(:func:`criterion_loss`; mentioned by Song et al. 2021, section 3.3, beside eq. 7). The second yields the same kind of
network as :func:`~score_sde.objectives.score_matching_loss`, for the same samplers and likelihoods.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from score_sde.fields import DEFAULTS
from score_sde.objectives.family import (
    ProjectionKind,
    StaticScore,
    denoising_score_matching,
    draw_projections,
    explicit_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from score_sde.parameterization import Parameterization, make_score_fn
from score_sde.processes import Process
from score_sde.typing import (
    Batch,
    Loss,
    Network,
    Number,
    Params,
    PRNGKey,
    Times,
    TimeSampler,
    component,
    static,
    time_dtype,
)
from score_sde.weightings import Weighting


@runtime_checkable
class Criterion(Protocol):
    """A loss of a score function per example, and its random numbers."""

    def draw(self, key: PRNGKey, x: Batch) -> Any:
        """The randomness of :meth:`losses`: a pytree whose arrays begin with the axis of the batch."""
        ...

    def losses(self, score: StaticScore, x: Batch, draws: Any) -> Times:
        """The loss of every example, summed over the event."""
        ...


@component
class Explicit:
    """The distance to a known score: :func:`~score_sde.objectives.explicit_score_matching`.

    Attributes:
        target: The score of the density of the data.
    """

    target: StaticScore = static()

    def draw(self, key: PRNGKey, x: Batch) -> Any:
        """Nothing."""
        del key, x
        return ()

    def losses(self, score: StaticScore, x: Batch, draws: Any) -> Times:
        """``1/2 |s - target|^2``."""
        del draws
        return explicit_score_matching(score, x, self.target)


@component
class Implicit:
    """The exact trace: :func:`~score_sde.objectives.implicit_score_matching`, for few dimensions."""

    def draw(self, key: PRNGKey, x: Batch) -> Any:
        """Nothing."""
        del key, x
        return ()

    def losses(self, score: StaticScore, x: Batch, draws: Any) -> Times:
        """``tr grad s + 1/2 |s|^2``."""
        del draws
        return implicit_score_matching(score, x)


@component
class Sliced:
    """Random directions: :func:`~score_sde.objectives.sliced_score_matching`.

    Attributes:
        num_projections: Directions per example.
        projections: Distribution of the directions: ``"rademacher"``, ``"gaussian"`` or ``"sphere"``.
        variance_reduced: Use ``1/2 |s|^2`` in place of ``1/2 (v^T s)^2``.
    """

    num_projections: int = static(default=DEFAULTS.objective.num_projections)
    projections: ProjectionKind = static(default="rademacher")
    variance_reduced: bool = static(default=True)

    def draw(self, key: PRNGKey, x: Batch) -> Any:
        """The directions."""
        return draw_projections(key, self.num_projections, x, self.projections)

    def losses(self, score: StaticScore, x: Batch, draws: Any) -> Times:
        """The mean over the directions."""
        return sliced_score_matching(score, x, draws, variance_reduced=self.variance_reduced)


@component
class Denoising:
    """One noise level: :func:`~score_sde.objectives.denoising_score_matching`.

    Attributes:
        std: The noise level; the learned score belongs to data with this much noise.
    """

    std: Number = 0.1

    def draw(self, key: PRNGKey, x: Batch) -> Any:
        """The noise."""
        return jax.random.normal(key, x.shape, x.dtype)

    def losses(self, score: StaticScore, x: Batch, draws: Any) -> Times:
        """``1/2 |s(x + std z) + z / std|^2``."""
        return denoising_score_matching(score, x, draws, self.std)


#: Criteria by name; ``explicit`` needs the score of the data.
CRITERIA: Mapping[str, Callable[..., Criterion]] = MappingProxyType(
    {
        "explicit": Explicit,
        "implicit": Implicit,
        "sliced": lambda **options: Sliced(variance_reduced=False, **options),
        "sliced_vr": Sliced,
        "denoising": Denoising,
    }
)


def static_score(
    network: Network, params: Params, *, condition: Number = 0.0, key: PRNGKey | None = None
) -> StaticScore:
    """The output of a network at one noise condition, as a score without time; a key switches dropout on."""
    return lambda x: network.apply(params, x, jnp.full(x.shape[:1], condition, x.dtype), key=key)


def static_score_matching_loss(network: Network, criterion: Criterion, *, condition: Number = 0.0) -> Loss:
    """Train a network as the score of the data, without a process: :func:`static_score` under a criterion.

    Sample from it with :func:`score_sde.solvers.langevin_monte_carlo`. No solver of a process can use it; see
    :func:`criterion_loss`.

    Args:
        network: The network to train.
        criterion: The criterion.
        condition: The constant noise condition.

    Returns:
        The loss; its draws are the criterion's.
    """

    def draw(key: PRNGKey, batch: Batch) -> tuple[Any, PRNGKey]:
        draw_key, dropout_key = jax.random.split(key)
        return criterion.draw(draw_key, batch), dropout_key

    def losses(params: Params, batch: Batch, draws: Any, dropout_key: PRNGKey | None) -> Times:
        return criterion.losses(static_score(network, params, condition=condition, key=dropout_key), batch, draws)

    return Loss(draw, losses)


def criterion_loss(
    process: Process,
    network: Network,
    parameterization: Parameterization,
    criterion: Criterion,
    *,
    times: TimeSampler,
    weighting: Weighting,
    reduce_mean: bool = DEFAULTS.objective.reduce_mean,
) -> Loss:
    r"""A criterion at every noise level: ``E_t E_{x_t} [ lambda(t) l(score(., t), x_t) ]``.

    For :class:`Implicit` and :class:`Sliced` it has the gradient of :func:`~score_sde.objectives.score_matching_loss`
    in expectation, without using the added noise. Its values are smaller by a constant: with the weighting
    ``lambda = s^2`` by 1 per dimension (``reduce_mean``), by ``d / 2`` without. The Jacobian-vector products make it
    more expensive.

    Args:
        process: The forward process.
        network: The network to train.
        parameterization: The meaning of its output.
        criterion: :class:`Implicit` or :class:`Sliced`.
        times: Draws the training times.
        weighting: ``lambda(t)``.
        reduce_mean: Per dimension and doubled, or unchanged: the two conventions of ``score_matching_loss``.

    Returns:
        The loss. It draws the same times and noise from a key as ``score_matching_loss``.
    """

    def draw(key: PRNGKey, batch: Batch) -> tuple[Any, PRNGKey]:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t, weight = (part.astype(time_dtype(batch)) for part in times.sample(time_key, batch.shape[0]))
        xt, _ = process.perturb(noise_key, batch, t)
        return (t, weight, xt, criterion.draw(jax.random.fold_in(noise_key, 1), xt)), dropout_key

    def losses(params: Params, batch: Batch, draws: Any, dropout_key: PRNGKey | None) -> Times:
        t, weight, xt, own = draws
        score_fn = make_score_fn(network, parameterization, process, params, key=dropout_key)
        values = criterion.losses(lambda x: score_fn(x, t), xt, own)
        return weighting(process, t) * weight * values * (2.0 / batch[0].size if reduce_mean else 1.0)

    return Loss(draw, losses)
