"""The page of a sweep over samplers: quality against evaluations."""

from collections.abc import Sequence
from typing import Any

from score_sde.errors import plural
from score_sde.evaluation.pareto import Point, front, recommended


def pareto_markdown(points: Sequence[Point], references: Sequence[Point], provenance: dict[str, Any]) -> str:
    """The recommended setting, the front, and every setting that was measured."""
    choice = recommended(points, references)
    reference, count = min(references, key=lambda p: p.distance), provenance["num_samples"]
    lines = [
        "# Which sampler, grid and number of steps",
        "",
        "Fréchet distance of pixels (means and covariances) to the training data, ± bootstrap standard error over "
        f"{count} {plural(count, 'sample')}, the same draws from the prior for every setting.",
        "",
        f"**Reference**: {_describe(reference)}.",
        "",
        "**Recommended**, the fewest evaluations within 5 % of it: "
        + (f"{_describe(choice)}.\n\n    {choice.setting.flags}" if choice else "none of those below."),
        "",
        "| 1000 steps of | distance | cheapest within 5 % of it |",
        "|---|---|---|",
        *(_cheapest(points, reference) for reference in references),
        "",
        "## The front",
        "",
        *_table(front(points)),
        "",
        "![front](pareto.png)",
        "",
        "## All settings",
        "",
        *_table([*references, *points]),
        "",
        f"`{provenance['command']}`, step {provenance['step']}, {provenance['date']}, {provenance['hardware']['cpu']}.",
    ]
    return "\n".join(lines) + "\n"


def _cheapest(points: Sequence[Point], reference: Point) -> str:
    choice, distance = recommended(points, [reference]), f"{reference.distance:.4g} ± {reference.std_error:.1g}"
    return f"| {reference.setting.solver} | {distance} | {_describe(choice) if choice else 'none'} |"


def _describe(point: Point) -> str:
    setting = point.setting
    return (
        f"`{setting.solver}` on the `{setting.grid}` grid, {point.num_evals} {plural(point.num_evals, 'evaluation')}, "
        "distance "
        f"{point.distance:.4g} ± {point.std_error:.1g}, {point.seconds:.1f} s"
    )


def _table(points: Sequence[Point]) -> list[str]:
    rows = ["| evaluations | solver | grid | steps | distance | seconds |", "|---|---|---|---|---|---|"]
    for point in points:
        setting, value = point.setting, f"{point.distance:.4g} ± {point.std_error:.1g}"
        rows.append(
            f"| {point.num_evals} | {setting.solver} | {setting.grid} | {setting.num_steps} | {value} | "
            f"{point.seconds:.1f} |"
        )
    return rows
