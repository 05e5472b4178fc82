"""The held-out likelihood of a trained model."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.config import ConfigDict
from score_sde.data import Source
from score_sde.errors import UserError
from score_sde.evaluation.base import mean_and_std_error
from score_sde.evaluation.likelihood import dataset_bound, dataset_likelihood
from score_sde.experiment import Experiment
from score_sde.modes.workdir import build_experiment, load_split, provenance, trained_state
from score_sde.report.baseline import gaussian_mixture_bits_per_dim
from score_sde.report.environment import atomic_savez, atomic_write_json
from score_sde.report.plots import likelihood_histogram
from score_sde.report.summary import write_summary
from score_sde.training.writers import ProgressBar

log = logging.getLogger(__name__)


def run_likelihood(config: ConfigDict, workdir: Path, command: str) -> None:
    """Measure the held-out likelihood beside that of the best Gaussian mixture: ``likelihood.json``."""
    experiment = build_experiment(config)
    check_limit(config)
    state = trained_state(experiment, workdir)
    source = load_split(config, "test")
    total = min(config.likelihood.num_examples or len(source), len(source))
    with ProgressBar(total=total, description="likelihood") as bar:
        result = dataset_likelihood(experiment, state.ema_params, source, progress=bar.advance)
    nats, nats_error = mean_and_std_error(result.nats)
    report: dict[str, Any] = {
        "nats_per_example": nats,
        "nats_std_error": nats_error,
        "num_examples": len(result.nats),
        "protocol": _protocol(experiment),
        "num_evals_mean": float(result.num_evals.mean()),
        "num_evals_max": int(result.num_evals.max()),
        "num_failed": int((~result.success).sum()),
        "seconds": result.seconds,
        **provenance(state, command),
    }
    if not result.success.all():
        log.warning("The ODE solver failed on %d of %d examples.", report["num_failed"], len(result.nats))
    if experiment.quantization.num_levels is not None:
        _add_bits(report, experiment, result.bits_per_dim, source, workdir)
    columns = {"nats": result.nats, "bits_per_dim": result.bits_per_dim, "num_evals": result.num_evals}
    if config.likelihood.bound_times and experiment.quantization.num_levels is not None:
        bound = dataset_bound(experiment, state.ema_params, source)
        columns |= {"bound_nats": bound.nats, "bound_bits_per_dim": bound.bits_per_dim}
        report["bound_bits_per_dim"], report["bound_std_error"] = mean_and_std_error(bound.bits_per_dim)
        report |= {"bound_times": config.likelihood.bound_times, "bound_seconds": bound.seconds}
    atomic_savez(workdir / "likelihood.npz", **columns)
    atomic_write_json(workdir / "likelihood.json", report)
    log.info(_likelihood_line(report))
    write_summary(workdir)


def check_limit(config: ConfigDict) -> None:
    """Refuse a chain that is not the SDE's own: the SDE, whose flow gives the likelihood, has other marginals."""
    own = {"vp": "linear", "ve": "geometric"}.get(config.sde.name)
    if config.sde.schedule not in ("continuous", own):
        raise UserError(
            f"The network was trained on the chain sde.schedule={config.sde.schedule}, and the likelihood is that "
            f"of the {config.sde.name} SDE, which is the limit of another; expected continuous or {own}."
        )


def _protocol(experiment: Experiment) -> str:
    settings, levels = experiment.config.likelihood, experiment.quantization.num_levels
    trace = f"{settings.num_probes} {settings.probe_kind} probe(s)" if settings.num_probes else "exact trace"
    noise = (
        "continuous data"
        if levels is None
        else f"uniform dequantisation x{settings.num_dequantizations}, {levels} levels"
    )
    return f"probability flow from t={settings.t_min:g}, {trace}, tolerance {settings.tolerance:g}, {noise}, test split"


def _add_bits(report: dict[str, Any], experiment: Experiment, bits: np.ndarray, source: Source, workdir: Path) -> None:
    """Bits per dimension, the Gaussian mixture's beside it, and the histogram."""
    report["bits_per_dim"], report["std_error"] = mean_and_std_error(bits)
    baseline = None
    if int(np.prod(experiment.event_shape)) <= 256:  # covariances of larger images take minutes to fit
        train_source = load_split(experiment.config, "train")
        mixture = gaussian_mixture_bits_per_dim(
            train_source.gather(np.arange(len(train_source))),
            source.gather(np.arange(len(bits))),
            quantization=experiment.quantization,
        )
        report["baseline"] = mixture._asdict()
        baseline = mixture.bits_per_dim
    likelihood_histogram(
        bits,
        workdir / "likelihood.png",
        mean=report["bits_per_dim"],
        std_error=report["std_error"],
        baseline=baseline,
    )


def _likelihood_line(report: dict[str, Any]) -> str:
    cost = (
        f"{report['num_examples']} examples, {report['num_evals_mean']:.0f} evaluations each, {report['seconds']:.0f} s"
    )
    if "bits_per_dim" not in report:
        return (
            f"Held-out log-likelihood {report['nats_per_example']:.3f} +- {report['nats_std_error']:.3f} nats ({cost})."
        )
    line = f"Held-out NLL {report['bits_per_dim']:.3f} +- {report['std_error']:.3f} bits/dim ({cost})."
    if "bound_bits_per_dim" in report:
        line += f" Bound: {report['bound_bits_per_dim']:.3f} +- {report['bound_std_error']:.3f} bits/dim."
    if "baseline" in report:
        mixture = report["baseline"]
        bits, error = mixture["bits_per_dim"], mixture["std_error"]
        line += f" Best Gaussian mixture on the same data: {bits:.3f} +- {error:.3f} bits/dim."
    return line
