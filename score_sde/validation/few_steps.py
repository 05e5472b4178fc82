"""What a network has learned, if it is not a score, against what is asked of it."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from score_sde.diffusions import on_chain
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS, Settings
from score_sde.fields.conditions import shown
from score_sde.methods import METHODS, make_predictor
from score_sde.models.registry import NETWORKS
from score_sde.parameterization import PARAMETERIZATIONS, THRESHOLDS
from score_sde.sampling import DENOISING_EVALS
from score_sde.solvers import CORRECTORS, Learned, learned_of
from score_sde.solvers.pairing import AVERAGE, SCORE
from score_sde.training.objective import OBJECTIVES
from score_sde.validation.purposes import Purpose

_WORDS: Mapping[Learned, str] = {
    "score": "the score",
    "end": "where the flow ends",
    "average": "average velocities of the flow",
    "steps": "long steps along the flow",
}
_GUIDANCE = ("scale", "guidance_interval", "rescale", "classifier")  # fields of what guides a score


def learned_by(config: Settings) -> Learned:
    """What the network of a configuration learns."""
    return OBJECTIVES[config.objective.kind].learned


def has_score(config: Settings) -> bool:
    """Whether a configuration trains a score, or a model with a likelihood of its own."""
    return learned_by(config) == SCORE


def need_score(config: Settings, asked: str) -> None:
    """Refuse what a network without a score is asked for, such as ``"a likelihood"``.

    Raises:
        UserError: If the network learns something else.
    """
    if not has_score(config):
        raise UserError(
            f"{_has_learned(config)}, and not the score that {asked} needs; expected --mode=train, sample or eval, or "
            f"a run that was trained with config.objective.kind={DEFAULTS.objective.kind}."
        )


def check_steps(config: Settings, method: Any) -> None:
    """Refuse a method that cannot step with what the network has learned.

    Raises:
        UserError: If it cannot, with the names of those that can.
    """
    for problem in _steps(config, method, type(method).__name__):
        raise UserError(problem)


def few_step_problems(config: Settings, wanted: Collection[Purpose], *, own: bool = False) -> Iterator[str]:
    """Sentences about models of few steps, their networks unless one's own, and their samplers with other models."""
    if NETWORKS[config.model.name].is_latent:
        return
    of_score, draws = has_score(config), "sample" in wanted
    if not of_score:
        yield from _no_score(config, wanted, own)
        draws = draws or ("train" in wanted and config.training.sample_every > 0)
    if not draws:
        return
    name = config.sampling.predictor
    yield from _steps(config, make_predictor(name, config.sampling), f"config.sampling.predictor={name}")
    if not of_score:
        yield from _followed(config)


def _has_learned(config: Settings) -> str:
    return f"With config.objective.kind={config.objective.kind} the network learns {_WORDS[learned_by(config)]}"


def _steps(config: Settings, method: Any, name: str) -> Iterator[str]:
    learned = learned_by(config)
    if learned not in learned_of(method):
        fitting = sorted(each for each, make in METHODS.items() if learned in learned_of(make()))
        others = fitting[0] if len(fitting) == 1 else f"one of {', '.join(fitting)}"
        yield f"{_has_learned(config)}, and {name} takes steps of another kind; expected {others}."


def _no_score(config: Settings, wanted: Collection[Purpose], own: bool) -> Iterator[str]:
    if on_chain(config):
        yield (
            f"{_has_learned(config)}, and the chain config.sde.schedule={config.sde.schedule} has none; expected "
            "config.sde.schedule=continuous."
        )
    kind, output = OBJECTIVES[config.objective.kind], config.parameterization.output
    if kind.taught:
        if "train" in wanted:
            yield from _teacher(config)
    elif kind.learned == AVERAGE:
        yield from _average(config, own)
    elif not PARAMETERIZATIONS[output].keeps_data:
        known = ", ".join(name for name, cls in PARAMETERIZATIONS.items() if cls.keeps_data)
        yield (
            f"{_has_learned(config)}, and of data that is the data themselves, which "
            f"config.parameterization.output={output} would have to learn; expected one of {known}."
        )


def _teacher(config: Settings) -> Iterator[str]:
    """Sentences about a teacher that is missing, or is not one with the student."""
    if not config.training.init_from:
        yield (
            f"config.objective.kind is {config.objective.kind}, and config.training.init_from names no teacher; "
            "expected a trained model."
        )
    if config.training.init_anew:
        yield (
            f"config.objective.kind is {config.objective.kind}, and config.training.init_anew is True; expected False: "
            "the student begins as its teacher."
        )


def _average(config: Settings, own: bool) -> Iterator[str]:
    """Sentences about networks and outputs that are no average velocities."""
    output, model = config.parameterization.output, config.model.name
    if not PARAMETERIZATIONS[output].of_sde:
        known = ", ".join(name for name, cls in PARAMETERIZATIONS.items() if cls.of_sde)
        yield f"{_has_learned(config)}, and config.parameterization.output is {output}; expected {known}."
    if not own and not NETWORKS[model].takes_spans:
        known = ", ".join(name for name, family in NETWORKS.items() if family.takes_spans)
        yield f"{_has_learned(config)}, and config.model.name={model} is told one time alone; expected one of {known}."


def _followed(config: Settings) -> Iterator[str]:
    """Sentences about what follows or guides a score, where there is none."""
    corrector, conditioning = config.sampling.corrector, config.conditioning
    if corrector in CORRECTORS:
        yield (
            f"{_has_learned(config)}, and config.sampling.corrector={corrector} follows a score; expected none as the "
            "corrector."
        )
    if learned_by(config) == AVERAGE and (thresholding := config.sampling.thresholding) in THRESHOLDS:
        yield (
            f"{_has_learned(config)}, and config.sampling.thresholding={thresholding} changes denoised images, which "
            "their steps do not make; expected none."
        )
    if OBJECTIVES[config.objective.kind].taught:
        yield from _straight(config)
    for name in _GUIDANCE:
        if (value := conditioning[name]) != DEFAULTS.conditioning[name]:
            yield (
                f"{_has_learned(config)}, and config.conditioning.{name}={shown(value)} guides a score; expected "
                f"{shown(DEFAULTS.conditioning[name])}."
            )


def _straight(config: Settings) -> Iterator[str]:
    """Sentences about other steps than those of a student, noise in them, and a score at their end."""
    sampling, own = config.sampling, config.objective
    for name, value in {"num_steps": own.student_steps, "grid": own.student_grid, "t_min": own.t_min}.items():
        if sampling[name] != value:
            asked = f"config.sampling.{name} is {sampling[name]}"
            yield f"{_has_learned(config)}, and {asked}; expected the student's, {value}."
    if sampling.eta and config.reads("sampling.eta"):
        yield f"{_has_learned(config)}, and config.sampling.eta={sampling.eta:g} adds noise to its steps; expected 0.0."
    if DENOISING_EVALS[sampling.denoising]:
        known = " or ".join(name for name, evals in DENOISING_EVALS.items() if not evals)
        yield (
            f"{_has_learned(config)}, and config.sampling.denoising={sampling.denoising} would take a score at the "
            f"last of its times; expected {known}."
        )
