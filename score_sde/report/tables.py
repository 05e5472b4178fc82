"""Tables of samplers in Markdown, measured on a run and on problems with known solutions."""

from collections.abc import Sequence
from typing import Any

from score_sde.evaluation.conformance import CorrectorRow, FlowRow, NoisyRow
from score_sde.evaluation.pareto import Point, front, recommended
from score_sde.report.rendering import render


def pareto_markdown(points: Sequence[Point], references: Sequence[Point], provenance: dict[str, Any]) -> str:
    """The recommended setting, the Pareto front, and every measured setting."""
    return render(
        "pareto.md",
        reference=min(references, key=lambda point: point.distance),
        choice=recommended(points, references),
        references=[(each, recommended(points, [each])) for each in references],
        front=front(points),
        everything=[*references, *points],
        how=provenance,
    )


def conformance_markdown(
    flow: Sequence[FlowRow], noisy: Sequence[NoisyRow], corrector: Sequence[CorrectorRow], provenance: dict[str, Any]
) -> str:
    """All tables, each with a description of its measurement."""
    problems = {row.problem: [each for each in flow if each.problem == row.problem] for row in flow}
    return render("conformance.md", problems=problems, noisy=noisy, corrector=corrector, how=provenance)
