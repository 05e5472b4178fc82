"""What the program does: one function per mode, each leaving its results as files in the working directory.

demo = train, then sample, likelihood and summary
"""

import dataclasses
import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.checkpointing import Checkpoints, newest_config
from score_sde.config import ConfigDict, default_config, differing_fields, leaves
from score_sde.data import Source, SourceInfo, load_source, source_info
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.interop.checkpoints import export_checkpoint, import_checkpoint
from score_sde.report.baseline import gaussian_mixture_bits_per_dim
from score_sde.report.conformance import CASES, conformance_markdown, conformance_rows
from score_sde.report.environment import atomic_savez, atomic_write_json, atomic_write_text, describe_machine
from score_sde.report.plots import image_grid, likelihood_histogram, loss_curve, scatter, trajectory_strip
from score_sde.report.summary import write_summary
from score_sde.solvers import DETERMINISTIC
from score_sde.training.evaluate import (
    LossEvaluator,
    dataset_likelihood,
    draw_samples,
    draw_trajectory,
    mean_and_std_error,
)
from score_sde.training.loop import train
from score_sde.training.state import TrainState
from score_sde.training.writers import ProgressBar

log = logging.getLogger(__name__)

#: Groups of fields that decide what is trained; they may not change under an existing run.
_TRAINED = ("seed", "sde", "parameterization", "model", "data", "objective", "optim", "training")
_FREE = ("training.num_steps", "training.eval_every", "training.keep_checkpoints", "data.data_dir")


def build_experiment(config: ConfigDict) -> Experiment:
    """The experiment of a configuration, for the data that it names."""
    info = data_info(config)
    return Experiment.from_config(config, info.shape, info.num_levels)


def data_info(config: ConfigDict) -> SourceInfo:
    """Shape and grey levels of the data; with ``config.data.shape`` the images need not be at hand.

    Raises:
        UserError: If that shape is not one of 8-bit images, or not that of the data.
    """
    shape = tuple(config.data.shape)
    if not shape:
        return source_info(config.data.name)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(f"config.data.shape is {shape}; expected (height, width, channels) or ().")
    return SourceInfo(config.data.name, shape, 256, None)


def run_train(config: ConfigDict, workdir: Path, command: str) -> None:
    """Train, or go on training, and draw the loss curve."""
    experiment = build_experiment(config)
    _claim_workdir(config, workdir)
    start = time.perf_counter()
    train(experiment, workdir)
    log.info("Trained to step %d in %.0f s.", config.training.num_steps, time.perf_counter() - start)
    loss_curve(workdir / "metrics.jsonl", workdir / "loss.png")
    write_summary(workdir)


def run_sample(config: ConfigDict, workdir: Path, command: str) -> None:
    """Draw samples and a strip from noise to data: ``samples.png``, ``samples.npz``, ``trajectory.png``."""
    experiment = build_experiment(config)
    state = trained_state(experiment, workdir)
    settings = config.sampling
    with ProgressBar(total=settings.num_samples, description="sampling") as bar:
        drawn = draw_samples(experiment, state.ema_params, progress=bar.advance)
    levels = experiment.quantization.quantize(drawn.x)
    atomic_savez(workdir / "samples.npz", samples=levels)
    count = 6 if experiment.quantization.num_levels is not None else 1000  # rows of images, or points of a scatter
    path, times = draw_trajectory(experiment, state.ema_params, count=count, frames=10)
    trajectory_strip(path, times, workdir / "trajectory.png", quantization=experiment.quantization)
    if experiment.quantization.num_levels is None:
        data = _load(config, "test").gather(np.arange(min(len(_load(config, "test")), 2000)))
        scatter(levels, data, workdir / "samples.png")
    else:
        image_grid(levels[:100], workdir / "samples.png", num_levels=experiment.quantization.num_levels)
    report = {
        "solver": settings.predictor
        if settings.corrector == "none"
        else f"{settings.predictor} + {settings.corrector}",
        "num_steps": settings.num_steps,
        "num_evals": drawn.num_evals,
        "num_samples": settings.num_samples,
        "denoising": settings.denoising,
        "seconds": drawn.seconds,
        **_provenance(state, command),
    }
    atomic_write_json(workdir / "sampling.json", report)
    log.info("Drew %d samples with %d evaluations each in %.1f s.", len(levels), drawn.num_evals, drawn.seconds)
    write_summary(workdir)


def run_likelihood(config: ConfigDict, workdir: Path, command: str) -> None:
    """Measure the held-out likelihood beside that of the best Gaussian mixture: ``likelihood.json``."""
    experiment = build_experiment(config)
    _check_limit(config)
    state = trained_state(experiment, workdir)
    source = _load(config, "test")
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
        **_provenance(state, command),
    }
    if not result.success.all():
        log.warning("The ODE solver failed on %d of %d examples.", report["num_failed"], len(result.nats))
    if experiment.quantization.num_levels is not None:
        _add_bits(report, experiment, result.bits_per_dim, source, workdir)
    atomic_savez(
        workdir / "likelihood.npz", nats=result.nats, bits_per_dim=result.bits_per_dim, num_evals=result.num_evals
    )
    atomic_write_json(workdir / "likelihood.json", report)
    log.info(_likelihood_line(report))
    write_summary(workdir)


def run_eval(config: ConfigDict, workdir: Path, command: str) -> None:
    """The loss of the averaged parameters on the whole test split, with its standard error: ``eval.json``."""
    experiment = build_experiment(config)
    state = trained_state(experiment, workdir)
    loss, error = LossEvaluator(experiment, _load(config, "test"))(state.ema_params)
    atomic_write_json(workdir / "eval.json", {"loss": loss, "std_error": error, **_provenance(state, command)})
    log.info("Test loss %.5f +- %.5f at step %d.", loss, error, int(state.step))
    write_summary(workdir)


def run_demo(config: ConfigDict, workdir: Path, command: str) -> None:
    """Train, sample, measure and summarise."""
    for mode in (run_train, run_sample, run_likelihood):
        mode(config, workdir, command)
    log.info("Everything is tied together in %s.", workdir / "summary.md")


def run_import(config: ConfigDict, workdir: Path, command: str, checkpoint: Path) -> None:
    """Make a published checkpoint a run that can be sampled, measured and trained further.

    The optimiser starts afresh, and the data from their beginning.

    Raises:
        UserError: If there is a run in ``workdir`` already, or the checkpoint is none of this configuration's network;
            nothing is written then. An import that was interrupted leaves no run, and is simply given again.
    """
    experiment = build_experiment(config)
    if _has_checkpoint(workdir):
        raise UserError(f"There is a run in {workdir} already; give another --workdir.")
    imported = import_checkpoint(checkpoint, experiment.network, experiment.event_shape)
    fresh = experiment.fresh_state(imported.params)
    state = dataclasses.replace(
        fresh, ema_params=jax.tree.map(jnp.asarray, imported.ema_params), step=jnp.asarray(imported.step, jnp.int32)
    )
    _claim_workdir(config, workdir)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, {}, config.to_dict())
    atomic_write_json(workdir / "import.json", {"checkpoint": str(checkpoint), **_provenance(state, command)})
    count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
    log.info("Imported %s parameters at step %d from %s.", f"{count:,}", imported.step, checkpoint)


def run_export(config: ConfigDict, workdir: Path, command: str) -> None:
    """Write parameters and their moving average to ``model.safetensors``, which ``--mode=import`` reads."""
    state = trained_state(build_experiment(config), workdir)
    export_checkpoint(workdir / "model.safetensors", state.params, state.ema_params, int(state.step))
    log.info("Wrote %s.", workdir / "model.safetensors")


def run_conformance(config: ConfigDict, workdir: Path, command: str) -> None:
    """Errors and orders of the samplers where the answer is known: ``conformance.md``, ``conformance.json``."""
    del config  # the problems are fixed, so that figures can be compared
    _make_directory(workdir)
    rows = []
    with ProgressBar(total=len(CASES) * len(DETERMINISTIC), description="conformance", unit="row") as bar:
        for row in conformance_rows():
            rows.append(row)
            bar.advance(1)
    provenance = _machine(command)
    atomic_write_json(workdir / "conformance.json", {"rows": [row._asdict() for row in rows], **provenance})
    atomic_write_text(workdir / "conformance.md", conformance_markdown(rows, provenance))
    log.info("Wrote %s.", workdir / "conformance.md")


MODES = {
    **{"train": run_train, "sample": run_sample, "likelihood": run_likelihood, "eval": run_eval, "demo": run_demo},
    **{"import": run_import, "export": run_export, "conformance": run_conformance},
}


def _load(config: ConfigDict, split: str) -> Source:
    return load_source(config.data.name, split, data_dir=config.data.data_dir or None, shape=tuple(config.data.shape))


def _claim_workdir(config: ConfigDict, workdir: Path) -> None:
    """Record the configuration in a new working directory, or check that it is the one recorded there."""
    _check_same_run(config, workdir)
    _make_directory(workdir)
    atomic_write_json(workdir / "config.json", config.to_dict())


def _make_directory(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot create the working directory {workdir} ({error.strerror}); give another.") from error


def _has_checkpoint(workdir: Path) -> bool:
    if not (workdir / "checkpoints").is_dir():
        return False
    with Checkpoints(workdir) as checkpoints:
        return bool(checkpoints.steps)


def _check_same_run(config: ConfigDict, workdir: Path) -> bool:
    """Whether there is a run in ``workdir``; an error if it was trained with other settings."""
    recorded = newest_config(workdir)
    if recorded is None:
        return False
    # A run that is older than a field was trained with what is now its default.
    recorded = {**leaves(default_config()), **leaves(recorded)}
    changed = [
        line
        for line in differing_fields(recorded, json.loads(json.dumps(config.to_dict())))
        if line.split(":")[0].split(".")[0] in _TRAINED and line.split(":")[0] not in _free_fields(config)
    ]
    if changed:
        raise UserError(
            f"The configuration differs from that of the run in {workdir}:\n  " + "\n  ".join(changed) + "\n"
            "Set these fields back, or give another --workdir for a new run."
        )
    return True


def _free_fields(config: ConfigDict) -> tuple[str, ...]:
    # A cosine schedule depends on the length of the run, which is then part of what is trained.
    return _FREE if config.optim.schedule == "constant" else _FREE[1:]


def trained_state(experiment: Experiment, workdir: Path) -> TrainState:
    """The state of the newest good checkpoint."""
    if not _check_same_run(experiment.config, workdir) or not (workdir / "checkpoints").is_dir():
        raise UserError(f"There is no trained model in {workdir}; train one there first with --mode=train.")
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore_newest(experiment.abstract_state())
    if restored is None:
        raise UserError(f"There is no checkpoint in {workdir}/checkpoints yet; train first with --mode=train.")
    return restored.state


def _provenance(state: TrainState, command: str) -> dict[str, Any]:
    return {"step": int(state.step), **_machine(command)}


def _machine(command: str) -> dict[str, Any]:
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_machine(),
    }


def _check_limit(config: ConfigDict) -> None:
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
        train_source = _load(experiment.config, "train")
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
    if "baseline" in report:
        mixture = report["baseline"]
        bits, error = mixture["bits_per_dim"], mixture["std_error"]
        line += f" Best Gaussian mixture on the same data: {bits:.3f} +- {error:.3f} bits/dim."
    return line
