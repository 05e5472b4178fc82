"""Checks of classes: those of the data, of the network, and of the samples that are asked for."""

from collections.abc import Collection, Iterator

from score_sde.data.base import no_labels
from score_sde.fields import DEFAULTS, Settings
from score_sde.fields.conditions import shown
from score_sde.models.registry import NETWORKS
from score_sde.validation.purposes import Purpose


def class_problems(config: Settings, num_classes: int | None, purposes: Collection[Purpose]) -> Iterator[str]:
    """Sentences about classes that the data, the network or its training lack."""
    conditioning, model, wanted = config.conditioning, config.model, set(purposes)
    draws = bool(wanted & {"sample", "pareto"}) or ("train" in wanted and config.training.sample_every > 0)
    if not conditioning.classes:
        if model.num_classes and "train" in wanted:
            yield (
                f"config.model.num_classes is {model.num_classes} and config.conditioning.classes is False: the "
                "network would learn one class, none; expected config.conditioning.classes=True, or "
                "config.model.num_classes=0."
            )
        unasked = ("scale",) if conditioning.classifier else ("labels", "scale")
        asked = [name for name in unasked if conditioning[name] != DEFAULTS.conditioning[name]]
        for name in asked if draws else ():
            yield (
                f"config.conditioning.{name} is {shown(conditioning[name])}, and the network knows no classes; "
                "expected a run that was trained with config.conditioning.classes=True."
            )
        return
    if not NETWORKS[model.name].takes_labels:
        known = ", ".join(name for name, family in NETWORKS.items() if family.takes_labels)
        yield (
            f"config.conditioning.classes is True, and config.model.name={model.name} takes no labels; expected one of "
            f"{known}, or config.conditioning.classes=False."
        )
    if not model.num_classes and num_classes is None:
        yield no_labels(config.data.name)
    if model.num_classes and num_classes not in (None, model.num_classes):
        yield (
            f"config.model.num_classes is {model.num_classes}, and {config.data.name} has {num_classes} classes; "
            f"expected {num_classes}, or 0 for their number."
        )
    if "restore" in wanted and not conditioning.null_probability and not conditioning.labels:
        yield (
            "config.conditioning.null_probability is 0: training never drops a label, and images are restored with the "
            "score without a class unless config.conditioning.labels says theirs; expected these, or a run that was "
            "trained with null_probability=0.1."
        )
    if draws:
        yield from _class_samples(config, model.num_classes or num_classes)


def _class_samples(config: Settings, count: int | None) -> Iterator[str]:
    conditioning = config.conditioning
    if count and (unknown := [label for label in conditioning.labels if label >= count]):
        yield (
            f"config.conditioning.labels has {', '.join(map(str, unknown))}; expected classes from 0 to {count - 1}, "
            f"the {count} of {config.data.name}."
        )
    if (interval := conditioning.guidance_interval) and interval[0] > interval[1]:
        yield (
            f"config.conditioning.guidance_interval is {shown(interval)}; expected the lower ratio of noise and signal "
            "first, or () for all."
        )
    if conditioning.scale != 1.0 and not conditioning.null_probability:
        yield (
            f"config.conditioning.scale is {conditioning.scale:g}, and with config.conditioning.null_probability=0 "
            "training never drops a label: the network has no score without a class to guide with; expected scale 1.0, "
            "or a run that was trained with null_probability=0.1."
        )
