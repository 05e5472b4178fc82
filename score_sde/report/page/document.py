"""The page as a whole: one file with its style, its script and its pictures, which asks the network for nothing."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from score_sde.files import atomic_write_text, check_writable
from score_sde.report.page.comparison import comparison
from score_sde.report.page.figures import number
from score_sde.report.page.markup import Markup, element, join
from score_sde.report.page.measurements import evaluation, likelihood, metrics, pareto, plan
from score_sde.report.page.record import configuration, files, provenance
from score_sde.report.page.run import Run, read_run
from score_sde.report.page.sections import headline, samples, training

_PARTS = (headline, training, samples, likelihood, metrics, evaluation, pareto, plan, configuration, provenance, files)


def write_report(workdir: Path, compare: Sequence[Path] = (), out: Path | None = None) -> Path:
    """Write ``report.html`` from whatever the run has produced so far; what is missing is named with how to make it.

    The page holds everything it shows, and is written whole or not at all. Text from files is escaped, and a policy in
    the page lets a browser run no script but its own.

    Args:
        workdir: Where the run lives.
        out: Where the page goes; what was measured there is shown instead of what lies in ``workdir``. It is made if
            need be.
        compare: Working directories of other runs, to be shown beside it.

    Returns:
        The path of the page.

    Raises:
        UserError: If a directory is missing or has nothing of a run in it, or the page cannot be written.
    """
    runs = [read_run(workdir, results=out), *map(read_run, compare)]
    if out is not None:
        check_writable(out)
    path = (out or workdir) / "report.html"
    atomic_write_text(path, page(runs))
    return path


def page(runs: Sequence[Run]) -> str:
    """The page of the first run, compared with the others."""
    run = runs[0]
    found = [comparison(runs), *(part(run) for part in _PARTS)]
    if found[0] is not None:  # the numbers of the run first, then those of the others
        found[0], found[1] = found[1], found[0]
    sections = [section for section in found if section is not None and section.body]
    style, script = _asset("page.css"), _asset("page.js")
    links = [element("a", section.title, href=f"#{section.id}") for section in sections]
    body = [
        element("section", element("h2", section.title), section.body, id=section.id, class_="part")
        for section in sections
    ]
    content = join(
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"{run.name}: {_subtitle(run)}" if run.config else run.name),
            element("style", Markup(style)),
        ),
        element(
            "body",
            element(
                "header",
                element("h1", run.name),
                element("p", _subtitle(run), class_="subtitle"),
                element("nav", *links, aria_label="Sections"),
            ),
            element("main", _problems(runs), *body),
            element("script", Markup(script)),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', content, lang='en')}\n"


def _problems(runs: Sequence[Run]) -> Markup | None:
    """What could not be read; known only when everything has been."""
    lines = [
        element("p", problem if len(runs) == 1 else f"{run.name}: {problem}", class_="problem")
        for run in runs
        for problem in run.problems
    ]
    return element("div", *lines, class_="problems", role="alert") if lines else None


def _subtitle(run: Run) -> str:
    """What was trained on what, and how far."""
    names = [run.setting(f"{group}.name") for group in ("data", "sde", "model")]
    step = run.newest("step")
    parts = [str(name) for name in names if name] + ([] if step is None else [f"step {number(step)}"])
    return " · ".join(parts)


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8").strip()


def _policy(style: str, script: str) -> str:
    """A content security policy for a page with this style, this script and pictures of its own, and nothing else."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
