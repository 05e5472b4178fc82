"""The modes of the program: one function per mode, each writing its results to the working directory.

A mode imports its module when it is loaded, so that no command waits for the libraries of another.
"""

import importlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Mode(NamedTuple):
    """A mode: where its function is, what it does, and what it takes."""

    place: str  # the module and the function
    text: str  # one sentence for --help
    trains: bool = False  # it saves and ends when SIGTERM or SIGINT comes
    takes_out: bool = False  # it reads a run, or none, and writes results, which may go elsewhere
    takes_config: bool = True
    look_at: str = ""  # the result to look at first, for modes that do not name it themselves


#: The modes by what they are for.
GROUPS = {
    "train": {
        "train": Mode(
            "training.run_train",
            "train, or go on training from the newest checkpoint",
            trains=True,
            look_at="summary.md",
        ),
        "demo": Mode(
            "demonstrating.run_demo", "train, sample, measure the likelihood, and write summary.md", trains=True
        ),
        "sweep": Mode(
            "sweeping.run_sweep",
            "train every run that sweep() of the --config yields, in its own folder, and compare them: report.html",
            trains=True,
        ),
        "train_dequantizer": Mode(
            "dequantizer.run_train_dequantizer",
            "train noise for a tighter likelihood of a trained model: dequantizer.json",
            trains=True,
            look_at="dequantizer.json",
        ),
        "train_classifier": Mode(
            "guiding.run_train_classifier",
            "train a classifier of noisy labeled data, which guides samples to classes: classifier.json",
            trains=True,
            look_at="classifier.json",
        ),
    },
    "draw": {
        "sample": Mode(
            "sampling.run_sample",
            "draw samples: samples.png, trajectory.png",
            takes_out=True,
            look_at="samples.png",
        ),
        "restore": Mode(
            "restoring.run_restore",
            "draw images given observations of them, such as their upper halves: restoration.png",
            takes_out=True,
            look_at="restoration.png",
        ),
        "latents": Mode(
            "sampling.run_latents",
            "encode held-out data, decode, interpolate: latents.npz, interpolation.png",
            takes_out=True,
            look_at="latents.json",
        ),
    },
    "measure": {
        "likelihood": Mode(
            "likelihood.run_likelihood",
            "measure the held-out likelihood: likelihood.json",
            takes_out=True,
            look_at="likelihood.json",
        ),
        "eval": Mode(
            "evaluating.run_eval",
            "measure checkpoints on the test split, and their samples, and tell the best: evaluation.json",
            takes_out=True,
            look_at="evaluation.json",
        ),
        "classify": Mode(
            "classifying.run_classify",
            "tell the classes of held-out data by their likelihoods given each class: classification.json",
            takes_out=True,
            look_at="classification.json",
        ),
        "pareto": Mode(
            "comparing.run_pareto", "find the sampler, grid and number of steps to take: pareto.md", takes_out=True
        ),
        "conformance": Mode(
            "comparing.run_conformance",
            "measure the samplers where the answer is known: conformance.md; takes no --config",
            takes_config=False,
        ),
        "stats": Mode(
            "statistics.run_stats",
            "compute the statistics of a data set that samples are compared with: statistics.npz",
            takes_out=True,
        ),
        "reproduce": Mode(
            "reproducing.run_reproduce",
            "measure the published results of --row again and compare: reproduction.md; takes no --config",
            takes_config=False,
        ),
    },
    "plan and report": {
        "plan": Mode(
            "reporting.run_plan",
            "say what training needs and how fast it can be, from the compiled program: plan.md; trains nothing",
            takes_out=True,
        ),
        "report": Mode(
            "reporting.run_report",
            "write one page about a run, or several with --compare: report.html; takes no --config",
            takes_out=True,
            takes_config=False,
        ),
    },
    "exchange": {
        "import": Mode(
            "exchanging.run_import", "make a run of a published --checkpoint, a model in a folder or a pretrained one"
        ),
        "export": Mode(
            "exchanging.run_export", "write the parameters for other programs: model.safetensors", takes_out=True
        ),
    },
}
TABLE = {name: mode for group in GROUPS.values() for name, mode in group.items()}


def load(name: str) -> Callable[..., int | None]:
    """The function ``(config, workdir, command, **flags) -> exit code`` of a mode, with all that it needs imported."""
    module, _, function = TABLE[name].place.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def _loaded_at_a_call(name: str) -> Callable[..., int | None]:
    def run(config: Any, workdir: Any, *arguments: Any, **flags: Any) -> int | None:
        code, result = load(name)(config, workdir, *arguments, **flags), TABLE[name].look_at
        if result and not code:
            log.info("See %s.", (flags.get("out") or workdir) / result)
        return code

    return run


MODES = {name: _loaded_at_a_call(name) for name in TABLE}
