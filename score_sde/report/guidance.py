"""The classes of samples and their guidance, in words."""

from collections.abc import Mapping
from typing import Any

from score_sde.errors import plural
from score_sde.report.figures import finite, number

_CLASSES = 12  # listed


def classes_of(report: Mapping[str, Any]) -> str:
    """The classes and the guidance in a file of results; nothing for samples of no class.

    >>> classes_of({"classes": [3, 1], "scale": 2.0, "guidance_interval": [0.5, 5]})
    'of classes 3, 1 with guidance 2 where the noise is 0.5 to 5 of the signal'
    >>> classes_of({"classes": [3], "classifier_scale": 1.5}), classes_of({})
    ('of class 3 by a classifier times 1.5', '')
    """
    if not isinstance(classes := report.get("classes"), list) or not classes:
        return ""
    shown = ", ".join(str(label) for label in classes[:_CLASSES]) + ", ..." * (len(classes) > _CLASSES)
    named = f"of {plural(len(classes), 'class', 'classes')} {shown}"
    return named + _guidance(report) + _by_classifier(report)


def _guidance(report: Mapping[str, Any]) -> str:
    scale, interval, rescale = (report.get(name) for name in ("scale", "guidance_interval", "rescale"))
    if finite(scale) in (None, 1.0):
        return ""
    words = f" with guidance {number(scale)}"
    if isinstance(interval, list) and len(interval) == 2:
        words += f" where the noise is {' to '.join(map(number, interval))} of the signal"
    return words + (f", rescaled by {number(rescale)}" if finite(rescale) else "")


def _by_classifier(report: Mapping[str, Any]) -> str:
    scale = finite(report.get("classifier_scale"))
    return "" if scale is None else f" by a classifier times {number(scale)}"
