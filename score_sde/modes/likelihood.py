"""The held-out likelihood of a trained model, with its error budget."""

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.chains import Chain
from score_sde.data import Source
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import mean_and_std_error
from score_sde.evaluation.baseline import gaussian_mixture_bits_per_dim
from score_sde.evaluation.budget import error_budget
from score_sde.evaluation.chain_bound import dataset_chain_bound
from score_sde.evaluation.likelihood import (
    BinNoise,
    DatasetLikelihood,
    data_protocol,
    dataset_bound,
    dataset_latent_bound,
    dataset_likelihood,
    flow_count,
    flow_protocol,
    identity_of,
)
from score_sde.evaluation.loss import noise_level_report
from score_sde.evaluation.partial import Partial, discard, partial_file
from score_sde.evaluation.results import digest, keep_earlier
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_savez, atomic_write_json, one_at_a_time
from score_sde.modes.dequantizer import load_noise
from score_sde.modes.workdir import (
    check_limit,
    experiment_of,
    kept_in,
    load_split,
    measured_split,
    provenance,
    summarize,
    trained_model,
)
from score_sde.report.measured import draw_likelihood
from score_sde.report.quantities import comparable, quantities_of
from score_sde.state import TrainState
from score_sde.training.writers import compiling

log = logging.getLogger(__name__)

#: Files of partial results.
_PARTIALS = {"likelihood": "likelihood", "chain": "likelihood.chain", "bound": "likelihood.bound"}
_BASELINE_DIM = 256  # covariances of larger images take minutes to fit


class _Measurement(NamedTuple):
    """The subject of the measurement, the place of its results, and the report so far."""

    experiment: Experiment
    state: TrainState
    source: Source
    noise: BinNoise
    place: Path  # directory of the results
    identity: str
    report: dict[str, Any]
    columns: dict[str, np.ndarray]

    @property
    def total(self) -> int:
        """The number of measured examples."""
        return min(self.experiment.settings.likelihood.num_examples or len(self.source), len(self.source))

    def kept(self, name: str, doing: str, total: int | None = None) -> AbstractContextManager[Partial]:
        """The results so far of a part of the measurement, of all images unless a number is given."""
        total = self.total if total is None else total
        return kept_in(self.place, _PARTIALS[name], self.identity, total=total, doing=doing)


@one_at_a_time("likelihood")
def run_likelihood(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Measure the held-out likelihood, its bounds and the best Gaussian mixture: ``likelihood.json``.

    Raises:
        UserError: If no likelihood is defined for the network's training, or the solver failed on all images.
    """
    place = out or workdir
    experiment = experiment_of(config, workdir, "likelihood")
    on_chain = isinstance(experiment.process, Chain) and experiment.latent is None
    on_flow = not on_chain and experiment.latent is None
    if on_flow:
        check_limit(config)
    on_flow = on_flow or (on_chain and _has_flow(config))
    (state, average), source = trained_model(experiment, workdir), measured_split(config, workdir, "test")
    noise = load_noise(experiment, workdir) if on_flow else BinNoise()
    identity = identity_of(experiment, state.ema_params, noise, source)
    report: dict[str, Any] = {**provenance(state, command), **average, "identity": digest(identity)}
    run = _Measurement(experiment, state, source, noise, place, identity, report, {})
    compiling("the likelihood")
    if experiment.latent is not None:
        _measure_latent(run)
    if on_chain:
        _measure_chain(run)
    if on_flow:
        _measure_flow(run)
    _write(run)
    for line in _lines(report):
        log.info(line)
    summarize(workdir, place)


def _write(run: _Measurement) -> None:
    """Write the results; results of other settings are kept."""
    place, report = run.place, run.report
    keep_earlier(place, "likelihood", report["identity"])
    draw_likelihood(place, report, run.columns)
    atomic_savez(place / "likelihood.npz", **run.columns)
    atomic_write_json(place / "likelihood.json", report)
    for name in _PARTIALS.values():
        discard(partial_file(place, name, run.identity))


def _has_flow(config: Settings) -> bool:
    try:
        check_limit(config)
    except UserError as error:
        log.warning("The bound of the chain alone is measured. %s", error)
        return False
    return True


def _measure_chain(run: _Measurement) -> None:
    with run.kept("chain", "bound of the chain") as kept:
        bound = dataset_chain_bound(run.experiment, run.state.ema_params, run.source, kept=kept)
    mean, error = mean_and_std_error(bound.bits_per_dim)
    run.report["chain_bound"] = {
        "bits_per_dim": mean,
        "std_error": error,
        "prior": float(bound.prior.mean()),
        "divergence": float(bound.divergence.mean()),
        "decoder": float(bound.decoder.mean()),
        "variances": ", ".join(bound.model),
        "other_variances": {", ".join(model): bits for model, bits in bound.alternatives.items()},
        "num_levels": len(bound.times),
        "distortion": float(bound.distortion[-1]),
        "num_examples": len(bound.bits_per_dim),
        "seconds": bound.seconds,
    }
    run.columns.update(
        chain_bound=bound.bits_per_dim,
        chain_rate=bound.rate,
        chain_distortion=bound.distortion,
        chain_level_bits=bound.level_bits,
    )


def _measure_latent(run: _Measurement) -> None:
    """The bounds of a variational autoencoder and the Gaussian mixture."""
    experiment, report, settings = run.experiment, run.report, run.experiment.settings.likelihood
    with run.kept("likelihood", "bound of the autoencoder") as kept:
        bound = dataset_latent_bound(experiment, run.state.ema_params, run.source, kept=kept)
    run.columns.update({name: column for name, column in bound._asdict().items() if name != "seconds"})
    discrete = experiment.quantization.num_grey_levels is not None
    evals = np.full(len(bound.nats), settings.num_weights)
    good = np.isfinite(bound.nats)
    result = DatasetLikelihood(bound.bits_per_dim, bound.nats, evals, good, np.zeros(len(good)), bound.seconds)
    report["quantity"] = f"bound of {settings.num_weights} importance weights"
    report["protocol"] = f"{report['quantity']}, {data_protocol(experiment, BinNoise(), run.total)}"
    _add_mean(report, experiment, result)
    loose = bound.elbo_bits_per_dim if discrete else -bound.elbo_nats
    report["elbo"], report["elbo_std_error"] = mean_and_std_error(loose)
    _add_baseline(run, len(bound.nats))


def _measure_flow(run: _Measurement) -> None:
    """The likelihood of the flow, its budget, the bound, the noise levels and the Gaussian mixture."""
    experiment, source, report, columns = run.experiment, run.source, run.report, run.columns
    settings, params, noise = experiment.settings.likelihood, run.state.ema_params, run.noise
    total = flow_count(settings, len(source))
    with run.kept("likelihood", "likelihood", total) as kept:
        result = dataset_likelihood(experiment, params, source, noise=noise, kept=kept)
    columns |= result._asdict()
    del columns["seconds"]
    report["protocol"] = f"{flow_protocol(settings)}, {data_protocol(experiment, noise, total)}"
    _add_mean(report, experiment, result)
    if settings.budget_examples:
        again = min(settings.budget_examples, total)
        verb = plural(again, "example is", "examples are")
        log.info("Error budget: %d %s solved again in other ways.", again, verb)
        budget = error_budget(experiment, params, source, result, noise=noise)
        report["budget"] = budget._asdict() | {
            "solver": budget.solver._asdict(),
            "truncation": budget.truncation._asdict(),
        }
        report["interval"] = budget.interval(report.get("bits_per_dim", -report["nats_per_example"]))
    if settings.bound_times:
        times = settings.bound_times
        log.info("Bound of the reverse SDE: %d %s of every example.", times, plural(times, "time"))
        kept = Partial(partial_file(run.place, _PARTIALS["bound"], run.identity), run.identity)
        bound = dataset_bound(experiment, params, source, noise=noise, kept=kept)
        columns |= {"bound_nats": bound.nats, "bound_bits_per_dim": bound.bits_per_dim}
        is_discrete = experiment.quantization.num_grey_levels is not None
        mean, error = mean_and_std_error(bound.bits_per_dim if is_discrete else bound.nats)
        name = "bound_bits_per_dim" if is_discrete else "bound_nats_per_example"
        report |= {name: mean, "bound_std_error": error}
        report |= {"bound_times": times, "bound_seconds": bound.seconds, "bound_num_examples": len(bound.nats)}
    if settings.noise_levels:
        log.info("Loss by noise level: %d levels.", settings.noise_levels)
        levels = noise_level_report(experiment, params, source, noise=noise)
        report["noise_levels"] = levels._asdict()
    _add_baseline(run, len(result.nats))


def _add_mean(report: dict[str, Any], experiment: Experiment, result: DatasetLikelihood) -> None:
    """Add means over the solved examples, and the number of failed ones, which the means exclude."""
    good = result.success
    if not good.any():
        all_of = plural(len(good), "the one example", f"all {len(good)} examples")
        raise UserError(
            f"The measurement failed on {all_of}: the score may be no number "
            "somewhere, or the tolerance too small for it; raise config.likelihood.tolerance, or set "
            "config.likelihood.num_steps=100."
        )
    report["nats_per_example"], report["nats_std_error"] = mean_and_std_error(result.nats[good])
    report |= {
        "num_examples": int(good.sum()),
        "num_failed": int((~good).sum()),
        "num_evals_mean": float(result.num_evals.mean()),
        "num_evals_max": int(result.num_evals.max()),
        "seconds": result.seconds,
    }
    if not good.all():
        log.warning(
            "The measurement failed on %d of %d examples, which are left out of the mean.", (~good).sum(), len(good)
        )
    if experiment.quantization.num_grey_levels is not None:
        report["bits_per_dim"], report["std_error"] = mean_and_std_error(result.bits_per_dim[good])
    else:
        report["density_bits_per_dim"], report["density_bits_std_error"] = mean_and_std_error(result.bits_per_dim[good])


def _add_baseline(run: _Measurement, count: int) -> None:
    """Add the bits per dimension of a Gaussian mixture on the same images, unless large ones would take minutes."""
    experiment = run.experiment
    if experiment.quantization.num_grey_levels is None or int(np.prod(experiment.event_shape)) > _BASELINE_DIM:
        return
    log.info("Gaussian mixture: fitted to the training images, for comparison.")
    train_source = load_split(experiment.settings, "train")
    mixture = gaussian_mixture_bits_per_dim(
        train_source.gather(np.arange(len(train_source))),
        run.source.gather(np.arange(count)),
        quantization=experiment.quantization,
    )
    run.report["baseline"] = mixture._asdict()


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{each.line}." for each in comparable(quantities_of("likelihood.json", report))]
    if "nats_per_example" in report:
        lines.append(
            f"{report['num_examples']} {plural(report['num_examples'], 'example')}, "
            f"{report['num_evals_mean']:.0f} {plural(round(report['num_evals_mean']), 'evaluation')} each, "
            f"{report['seconds']:.0f} s; {report['protocol']}."
        )
    if (budget := report.get("budget")) and np.isfinite(report["interval"]).all():
        solver, cut = budget["solver"], budget["truncation"]
        low, high = report["interval"]
        lines.append(
            f"95 % interval {low:.4f} to {high:.4f}: images +- {budget['images']:.4f}, of which probes "
            f"{budget['probes']:.4f}; solver {solver['mean']:+.5f} +- {solver['std_error']:.5f}; truncation "
            f"{cut['mean']:+.5f} +- {cut['std_error']:.5f}; prior {budget['prior']:.1e}."
        )
    if levels := report.get("noise_levels"):
        lines.append(
            f"A batch with importance-sampled times is worth {levels['variance_ratio']:.1f} with uniform ones under "
            "likelihood weighting."
        )
    return lines
