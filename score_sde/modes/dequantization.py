"""Training of a dequantizer for a trained model, and its gain over uniform noise."""

import logging
from pathlib import Path

from score_sde.evaluation.base import mean_and_std_error, with_error
from score_sde.evaluation.loss import LossEvaluator
from score_sde.fields import Settings
from score_sde.files import atomic_write_json
from score_sde.likelihood.dequantization import UniformDequantizer
from score_sde.modes.dequantizer import held_out_losses, load_dequantizer, named, train_dequantizer
from score_sde.modes.likelihood import check_limit
from score_sde.modes.workdir import experiment_of, measured_split, provenance, trained_model
from score_sde.report.measured import loss_curve

log = logging.getLogger(__name__)


def run_train_dequantizer(config: Settings, workdir: Path, command: str) -> None:
    """Train a dequantizer, or resume, and measure the bound with it and with uniform noise: ``dequantizer.json``.

    Raises:
        UserError: If the configuration names no dequantizer, there is no trained model, or the model was trained on a
            chain with another SDE as its limit.
    """
    experiment = experiment_of(config, workdir, "train_dequantizer")
    dequantizer = named(experiment)
    check_limit(config)
    model, average = trained_model(experiment, workdir)
    train_dequantizer(experiment, model, workdir)
    loss_curve(workdir / "dequantizer" / "metrics.jsonl", workdir / "dequantizer" / "loss.png")

    trained, source = load_dequantizer(experiment, workdir), measured_split(config, workdir, "test")
    evaluate = LossEvaluator(experiment, source, held_out_losses(experiment, dequantizer))
    bits = evaluate.per_example((trained.params, model.ema_params))
    evaluate = LossEvaluator(experiment, source, held_out_losses(experiment, UniformDequantizer()))
    uniform = evaluate.per_example(({}, model.ema_params))
    # Both use the same diffusion times and noise, so most of their error cancels in the difference.
    gain, gain_error = mean_and_std_error(uniform - bits)
    report = {
        "bits_per_dim": float(bits.mean()),
        "uniform_bits_per_dim": float(uniform.mean()),
        "gain_bits_per_dim": gain,
        "gain_std_error": gain_error,
        "num_examples": len(bits),
        "protocol": f"bound with one time per example, t_min={config.dequantizer.t_min:g}, test split",
        "dequantizer_step": trained.step,
        **provenance(model, command),
        **average,
    }
    atomic_write_json(workdir / "dequantizer.json", report)
    apart = with_error(abs(gain), gain_error, unit="bits/dim")
    lower = "lower" if gain >= 0.0 else "higher"
    log.info("Against uniform noise the bound is %s by %s, on the test split.", lower, apart)
