"""Checks of what is trained: the objective, its times, and the meaning of the network's output."""

from collections.abc import Iterator

from score_sde.diffusions import DIFFUSIONS, on_chain
from score_sde.fields import Settings
from score_sde.models.registry import NETWORKS
from score_sde.objectives import OF_SDE, TIME_SAMPLERS, WEIGHTINGS
from score_sde.parameterization import PARAMETERIZATIONS
from score_sde.quantization import PLACES, Quantization
from score_sde.training.objective import OBJECTIVES, VARIANCES


def objective_problems(config: Settings) -> Iterator[str]:
    """Sentences about what no objective trains, or no process, network or variances have."""
    objective, autoencoder = config.objective, NETWORKS[config.model.name].is_latent
    on_bound, learned = OBJECTIVES[objective.kind].of_bound, VARIANCES[config.parameterization.variances] is None
    if autoencoder and not on_bound:
        yield (
            f"config.model.name is {config.model.name} and config.objective.kind is {objective.kind}, which trains a "
            "score; expected config.objective.kind=bound, or another network."
        )
    if on_bound and not autoencoder and not on_chain(config):
        yield (
            "config.objective.kind is bound, and config.sde.schedule=continuous names no chain whose bound that could "
            "be; expected one, such as config.sde.schedule=linear, or config.objective.kind=denoising with "
            "config.objective.weighting=likelihood, which is the bound in continuous time."
        )
    if learned and (autoencoder or not on_bound):
        yield (
            "config.parameterization.variances is learned, and nothing but the bound of a chain trains them; expected "
            "config.objective.kind=bound and a score network, or variances small or large."
        )
    if objective.hybrid and not (learned and on_bound):
        yield (
            f"config.objective.hybrid is {objective.hybrid}, and the part of the bound in it trains learned variances "
            "alone; expected config.parameterization.variances=learned, or config.objective.hybrid=0.0."
        )


def level_problems(config: Settings, num_grey_levels: int | None, *, own: bool = False) -> Iterator[str]:
    """Sentences about logits of gray levels that the data, the network (unless one's own) or the process lack."""
    if not PARAMETERIZATIONS[config.parameterization.output].of_levels or NETWORKS[config.model.name].is_latent:
        return
    given = f"config.parameterization.output is {config.parameterization.output}, "
    if num_grey_levels is None:
        yield f"{given}and {config.data.name} is continuous and has no gray levels; expected another output, such as v."
    elif PLACES[config.objective.levels] is Quantization.dequantize:
        yield (
            f"{given}which knows gray levels at the middle of their bins, and config.objective.levels is "
            f"{config.objective.levels}; expected midpoints."
        )
    if not own and not NETWORKS[config.model.name].gives_logits:
        names = [name for name, family in NETWORKS.items() if family.gives_logits]
        yield (
            f"{given}and config.model.name={config.model.name} gives one number for every value; expected "
            f"{' or '.join(names)}."
        )
    if on_chain(config):
        yield f"{given}and config.sde.schedule is {config.sde.schedule}; expected continuous."


def time_problems(config: Settings) -> Iterator[str]:
    """Sentences about times that a chain has not."""
    if not config.reads("objective.t_min") or not on_chain(config):
        return
    t_min, num_levels = config.objective.t_min, config.parameterization.num_scales
    diffusion = DIFFUSIONS[config.sde.name]
    # Below its first level a chain has data without any noise.
    if diffusion.schedules and not diffusion.keeps_data and round(t_min * num_levels) < 1:
        yield (
            f"config.objective.t_min is {t_min:g}, and the first level of the chain is at {1.0 / num_levels:g}; "
            "expected that (1 / config.parameterization.num_scales) or more."
        )
    objective, output = config.objective, config.parameterization.output
    needs = {
        f"objective.times={objective.times}": TIME_SAMPLERS[objective.times] in OF_SDE,
        f"objective.weighting={objective.weighting}": WEIGHTINGS[objective.weighting].of_sde,
        f"parameterization.output={output}": PARAMETERIZATIONS[output].of_sde,
    }
    yield from (f"config.{part} needs an SDE; set config.sde.schedule=continuous." for part in needs if needs[part])


def augmentation_problems(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    """Sentences about augmentations of what are no images, or of which the network is not told."""
    probability, name = config.objective.augment_probability, config.model.name
    if not probability or not config.reads("objective.augment_probability"):
        return
    given = f"config.objective.augment_probability is {probability:g}, and "
    if len(event_shape) != 3:
        yield f"{given}the data have shape {event_shape}, and are no images (H, W, C); expected 0.0."
    if not NETWORKS[name].takes_augmentations:
        known = ", ".join(other for other, family in NETWORKS.items() if family.takes_augmentations)
        yield (
            f"{given}config.model.name={name} is not told how images were changed, so that its samples would be "
            f"changed too; expected one of {known}, or config.objective.augment_probability=0.0."
        )
