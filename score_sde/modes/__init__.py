"""The modes of the program: one function per mode, each writing its results to the working directory.

A mode imports its module when it is loaded, so that no command waits for the libraries of another.
"""

import importlib
from collections.abc import Callable
from typing import Any

#: The module and the function of every mode.
_PLACES = {
    "train": "training.run_train",
    "sample": "sampling.run_sample",
    "likelihood": "likelihood.run_likelihood",
    "eval": "evaluating.run_eval",
    "demo": "demonstrating.run_demo",
    "train_dequantizer": "dequantizer.run_train_dequantizer",
    "train_classifier": "guiding.run_train_classifier",
    "latents": "sampling.run_latents",
    "pareto": "comparing.run_pareto",
    "restore": "restoring.run_restore",
    "classify": "classifying.run_classify",
    "import": "exchanging.run_import",
    "export": "exchanging.run_export",
    "plan": "reporting.run_plan",
    "conformance": "comparing.run_conformance",
    "stats": "statistics.run_stats",
    "reproduce": "reproducing.run_reproduce",
    "report": "reporting.run_report",
}


def load(name: str) -> Callable[..., int | None]:
    """The function ``(config, workdir, command, **flags) -> exit code`` of a mode, with all that it needs imported."""
    module, _, function = _PLACES[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def _loaded_at_a_call(name: str) -> Callable[..., int | None]:
    def run(*arguments: Any, **flags: Any) -> int | None:
        return load(name)(*arguments, **flags)

    return run


MODES = {name: _loaded_at_a_call(name) for name in _PLACES}
