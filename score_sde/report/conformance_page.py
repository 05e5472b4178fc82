"""The page of the conformance tables."""

from collections.abc import Sequence
from typing import Any

from score_sde.evaluation.conformance import CorrectorRow, FlowRow, NoisyRow

_FLOW = (
    "Relative error of the probability flow over 32 points from the prior, by number of evaluations of the score, in "
    "double precision; the order is measured where steps are small."
)
_DATA = {
    "Gaussian": "Data: a Gaussian in 16 dimensions with covariance 0.25 · 0.8^|i-j|.",
    "mixtures": "Data: 8 independent mixtures of three Gaussians each, in a rotated frame.",
}
_NOISY = (
    "The largest relative error of a variance of the samples along the axes of the same Gaussian, by number of steps; "
    "it is computed and not sampled. The weak order is measured where steps are small."
)
_CORRECTOR = (
    "Relative bias of the total variance of samples of that Gaussian, by the signal-to-noise ratio of one correction "
    "after each of 500 steps of reverse diffusion: exact for annealed Langevin, whose steps are fixed, and by Monte "
    "Carlo, ± standard error, for Langevin. The last column is the predictor's alone. Unadjusted Langevin dynamics, "
    "x + h score + √(2h) z, settles at the variance v / (1 - h / 2v) and not at v."
)


def conformance_markdown(
    flow: Sequence[FlowRow], noisy: Sequence[NoisyRow], corrector: Sequence[CorrectorRow], provenance: dict[str, Any]
) -> str:
    """All tables, with what each measures."""
    lines = ["# Samplers on problems with a known answer"]
    for problem in dict.fromkeys(row.problem for row in flow):
        rows = [row for row in flow if row.problem == problem]
        lines += ["", f"## Probability flow: {problem}", "", f"{_FLOW} {_DATA[problem]}", ""]
        lines += _error_table(rows, ["process", "solver", "grid"], "measured order")
    lines += ["", "## Reverse SDE", "", _NOISY, "", *_error_table(noisy, ["process", "solver"], "weak order")]
    lines += ["", "## The corrector's bias", "", _CORRECTOR, ""]
    lines += ["| process | snr | annealed Langevin | Langevin | no corrector |", "|---|---|---|---|---|"]
    for row in corrector:
        langevin = f"{row.langevin:+.4f} ± {row.langevin_std_error:.4f}"
        lines.append(f"| {row.sde} | {row.snr:g} | {row.annealed:+.5f} | {langevin} | {row.predictor:+.5f} |")
    lines += ["", f"`{provenance['command']}`, {provenance['date']}, {provenance['hardware']['cpu']}."]
    return "\n".join(lines) + "\n"


def _error_table(rows: Sequence[FlowRow] | Sequence[NoisyRow], names: list[str], order: str) -> list[str]:
    counts = list(rows[0].errors) if rows else []
    columns = [*names, *map(str, counts), order]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        labels = [row.sde, row.solver, *([row.grid] if isinstance(row, FlowRow) else [])]
        errors = [f"{row.errors[count]:.2g}" for count in counts]
        lines.append("| " + " | ".join([*labels, *errors, f"{row.order:.2f}"]) + " |")
    return lines
