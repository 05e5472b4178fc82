r"""Losses from the names of an objective and of the variances: denoising, its relatives, and the variational bound.

The systems of several papers are combinations of these. Denoising on a chain is Ho et al. 2020 (``L_simple``) or NCSN;
in continuous time it is the Score SDE, and with likelihood weighting ScoreFlow. The bound of a chain with learned
variances is Sohl-Dickstein et al. 2015 and Nichol & Dhariwal 2021; the bound of a chain of one Gaussian layer is a
variational autoencoder.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from score_sde.average_velocity import make_average_fn
from score_sde.config import build
from score_sde.errors import UserError
from score_sde.fields import Settings
from score_sde.fields.training import Objective
from score_sde.models.adapters.own import Asked, given_network
from score_sde.models.registry import NETWORKS, make_latent_model, make_network
from score_sde.objectives import (
    CRITERIA,
    TIME_SAMPLERS,
    WEIGHTINGS,
    AdaptiveError,
    LowDiscrepancyTimes,
    ToldAugmentations,
    Uncertain,
    consistency_training,
    criterion_loss,
    distillation_loss,
    make_weighting,
    mean_flow_loss,
    score_matching_loss,
)
from score_sde.objectives.contract import check_loss, check_losses, check_weighting
from score_sde.outside.parts import Part, Registry
from score_sde.parameterization import PARAMETERIZATIONS, Parameterization, make_score_fn
from score_sde.processes import Process
from score_sde.quantization import Quantization
from score_sde.sampling import GRIDS, Grid
from score_sde.solvers import Learned
from score_sde.solvers.pairing import AVERAGE
from score_sde.typing import Batch, Labels, Loss, Network, Params, PRNGKey, ScoreFn, Times
from score_sde.variational import LatentVariableModel, first_half, vae_loss, vlb_loss, with_fraction, with_variances

#: The choices of ``config.parameterization.variances``, with the fraction in eq. 15 of Nichol & Dhariwal 2021.
VARIANCES = {"small": 0.0, "large": 1.0, "learned": None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainees:
    """The views of one trained network: score network, reverse step, latent variable model."""

    score: Network  # the network of the score
    reversal: Network  # the network of noise and variance fraction, for :func:`~score_sde.variational.make_predict_fn`
    # Encoder and decoder of a variational autoencoder, which has no score; else ``None``.
    latent: LatentVariableModel | None = None

    @classmethod
    def of_score(cls, network: Network, variances: str) -> "Trainees":
        """The views of a network with one output per value, and variances from :data:`VARIANCES`."""
        fraction = VARIANCES[variances]
        if fraction is not None:
            return cls(score=network, reversal=with_fraction(network, fraction))
        reversal = with_variances(network)
        return cls(score=first_half(reversal), reversal=reversal)

    @classmethod
    def of_latent(cls, latent: LatentVariableModel) -> "Trainees":
        """The views of a variational autoencoder."""
        network = _WithoutScore(latent=latent)
        return cls(score=network, reversal=network, latent=latent)


def make_trainees(
    config: Settings,
    event_shape: tuple[int, ...],
    classes: int,
    num_grey_levels: int | None = None,
    network: Any = None,
) -> Trainees:
    """The views of a given network, else of the one that ``config.model`` names, for data of a shape.

    Raises:
        UserError: For unknown names, shapes that the network does not support, given networks that are none, and
            augmentations of one.
    """
    augments = config.objective.augment_probability > 0.0 and config.reads("objective.augment_probability")
    if augments and network is not None:
        raise UserError(
            f"config.objective.augment_probability is {config.objective.augment_probability:g}, and a network of your "
            "own is not told of augmentations; expected 0.0."
        )
    variances = config.parameterization.variances
    if network is None and NETWORKS[config.model.name].is_latent:
        return Trainees.of_latent(make_latent_model(dict(config.model), event_shape))
    copies = 2 if VARIANCES[variances] is None else 1  # of the data, which the network sees
    seen = (*event_shape[:-1], copies * event_shape[-1]) if event_shape else event_shape
    spans = OBJECTIVES[config.objective.kind].learned == AVERAGE
    outputs = num_grey_levels if PARAMETERIZATIONS[config.parameterization.output].of_levels else None
    if network is not None:
        network = given_network(network, Asked(seen, classes, outputs, spans))
    else:
        asked = {"num_classes": classes or config.model.num_classes, "spans": spans, "augments": augments}
        network = make_network(
            {**config.model, **asked},
            seen,
            num_scales=config.parameterization.num_scales,
            centered=config.data.centered,
            num_outputs=outputs,
        )
    if augments:
        network = ToldAugmentations(network)
    if config.objective.uncertainty and config.reads("objective.uncertainty"):
        network = Uncertain(network)
    return Trainees.of_score(network, variances)


class Kind(NamedTuple):
    """A kind of objective: its loss, its own configuration fields, and its trainee."""

    loss: Any  # a function that returns a Loss, or a part of the user's own
    fields: tuple[str, ...] = ()
    of_bound: bool = False  # the bound of a chain with its variances; else a score at random times
    learned: Learned = "score"  # what the network has learned, which decides how it is sampled
    weighted: bool = True  # by ``objective.weighting``
    timed: bool = True  # by ``objective.times``; else at the times of a student's steps
    scheduled: bool = False  # whether it changes in the course of training
    taught: bool = False  # whether it needs the model that training starts from
    score: Callable[..., ScoreFn] = make_score_fn  # makes of the network what samplers follow


def _criterion(name: str, *fields: str) -> Kind:
    def loss(*given: Any, **options: Any) -> Loss:
        criterion = CRITERIA[name](**{field: options.pop(field) for field in fields})
        return criterion_loss(*given, criterion=criterion, **options)

    return Kind(loss, fields)


def _adaptive(make: Callable[..., Loss]) -> Callable[..., Loss]:
    """A loss of an adaptive error, of which the configuration has the numbers."""

    def loss(*given: Any, reduce_mean: bool, adaptive_power: float, adaptive_offset: float, **options: Any) -> Loss:
        error = AdaptiveError(reduce_mean=reduce_mean, power=adaptive_power, offset=adaptive_offset)
        return make(*given, error=error, **options)

    return loss


def _bound(*given: Any, hybrid: float, **options: Any) -> Loss:
    return vlb_loss(*given, hybrid=hybrid or None, **options)  # 0 means none


#: Kinds of objectives by name.
OBJECTIVES: Mapping[str, Kind] = Registry(
    "objective.kind",
    {
        "denoising": Kind(score_matching_loss),
        "bound": Kind(_bound, ("hybrid",), of_bound=True),
        "implicit": _criterion("implicit"),
        "sliced": _criterion("sliced", "num_projections"),
        "sliced_vr": _criterion("sliced_vr", "num_projections"),
        "consistency": Kind(
            _adaptive(consistency_training),
            ("gap_divisor", "gap_every", "adaptive_power", "adaptive_offset", "t_min"),
            **{"learned": "end", "weighted": False, "scheduled": True},
        ),
        "mean_flow": Kind(
            _adaptive(mean_flow_loss),
            ("apart", "adaptive_power", "adaptive_offset"),
            **{"learned": AVERAGE, "weighted": False, "score": make_average_fn},
        ),
        "distillation": Kind(distillation_loss, learned="steps", timed=False, taught=True),
    },
    check=check_loss,
    adopt=Kind,
)


def make_loss(
    config: Settings,
    process: Process,
    trainees: Trainees,
    parameterization: Parameterization,
    quantization: Quantization,
    event_shape: tuple[int, ...],
) -> Loss:
    """The loss of ``config.objective``; for a variational autoencoder, its bound."""
    objective = config.objective
    if trainees.latent is not None:
        return vae_loss(trainees.latent)
    kind = OBJECTIVES[objective.kind]
    own = {field: objective[field] for field in kind.fields}
    if kind.of_bound:
        return kind.loss(process, trainees.reversal, parameterization, quantization=quantization, **own)
    weighting = make_weighting(objective.weighting, {**objective, "data_std": config.parameterization.data_std})
    if isinstance(part := WEIGHTINGS[objective.weighting].make, Part):
        check_weighting(part, weighting, process)
    fields = {
        **{"t0": objective.t_min, "num_levels": config.parameterization.num_scales, "sde": process},
        **{"weighting": weighting, "mean": objective.time_mean, "std": objective.time_std},
        **({"base": LowDiscrepancyTimes(t0=0.0)} if objective.even_times else {}),
        "options": objective.options,
    }
    options = {
        "times": build(TIME_SAMPLERS[objective.times], fields) if kind.timed else _teacher_times(objective, process),
        **({"weighting": weighting} if kind.weighted else {}),
        "reduce_mean": objective.reduce_mean,
        **({"num_steps": config.training.num_steps} if kind.scheduled else {}),
    }
    if isinstance(trainees.score, Uncertain):
        options["uncertainty"] = trainees.score.uncertainty
    if isinstance(kind.loss, Part):
        given = {"process": process, "network": trainees.score, "parameterization": parameterization, **options}
        return _own_loss(kind.loss, objective, given, event_shape)
    return kind.loss(process, trainees.score, parameterization, **options, **own)


def _teacher_times(objective: Objective, process: Process) -> Grid:
    """The times of a teacher whose steps are in pairs those of the student."""
    return GRIDS[objective.student_grid](process, 2 * objective.student_steps, objective.t_min)


def _own_loss(part: Part, objective: Objective, given: Mapping[str, Any], event_shape: tuple[int, ...]) -> Loss:
    loss, shape = part.made(objective.options, **given), (4, *event_shape)
    check_losses(part, loss, jax.eval_shape(lambda key: given["network"].init(key, shape), jax.random.key(0)), shape)
    return loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WithoutScore:
    """A stand-in network with the parameters of a variational autoencoder."""

    latent: LatentVariableModel

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """The parameters of encoder and decoder."""
        return self.latent.init(key, shape)

    def apply(
        self, params: Params, x: Batch, condition: Times, *, label: Labels | None = None, key: PRNGKey | None = None
    ) -> Batch:
        """Refused: there is no score."""
        raise UserError(
            "A variational autoencoder (config.model.name=vae) has no score, which this measurement needs; expected "
            "--mode=train, sample or likelihood, or a score network such as config.model.name=ncsnpp."
        )
