"""A field of a result that is not of its form is said on every page, and nothing that a run writes is said to be."""

import html
import json
import re
from pathlib import Path

import pytest

import score_sde
from score_sde.report.page import write_report
from score_sde.report.results import MODES, forms, misshapen, of_several_models
from score_sde.report.summary import write_summary
from tests.report.runs import fill

PACKAGE = Path(score_sde.__file__).parent


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("filled") / "run"
    fill(workdir)
    return workdir


# A file, the place of a field in it, what stands there, and what must be said.
WRONG = [
    ("likelihood.json", ["bits_per_dim"], "oops", "'oops' as bits_per_dim, where a number belongs"),
    ("likelihood.json", ["bits_per_dim"], None, "None as bits_per_dim, where a number belongs"),
    ("likelihood.json", ["interval"], [1.0, "2"], "[1.0, '2'] as interval, where a list belongs"),
    ("likelihood.json", ["budget", "solver", "mean"], [1], "[1] as budget.solver.mean, where a number belongs"),
    ("sampling.json", ["num_evals"], True, "True as num_evals, where a number belongs"),
    ("eval.json", ["loss"], "<b>`x`", "'<b>`x`' as loss, where a number belongs"),
    ("metrics.json", ["metrics", "frechet", "value"], "x", "'x' as metrics.frechet.value, where a number belongs"),
    ("metrics.json", ["metrics"], [3], "[3] as metrics, where an object belongs"),
    ("evaluation.json", ["checkpoints", 1, "loss"], "x", "'x' as checkpoints.loss, where a number belongs"),
    ("evaluation.json", ["checkpoints"], 7, "7 as checkpoints, where a list belongs"),
    ("pareto.json", ["points", 0, "num_evals"], "x", "'x' as points.num_evals, where a number belongs"),
]


@pytest.mark.parametrize(("name", "place", "value", "said"), WRONG)
def test_a_field_of_another_form_is_said_on_every_page(filled, name, place, value, said):
    path = filled / name
    whole = path.read_bytes()
    found = json.loads(whole)
    *above, last = place
    part = found
    for key in above:
        part = part[key]
    part[last] = value
    path.write_text(json.dumps(found))
    report, summary = write_report(filled), write_summary(filled)
    path.write_bytes(whole)
    problem = html.unescape(report.read_text().split('class="problems"')[1].split("</div>")[0])
    assert f"{name} has {said}" in problem
    assert f"--mode={MODES[name]} again" in problem
    assert f"{name} has" in summary.read_text() and "<b>" not in summary.read_text()


def test_what_is_written_is_of_its_form(filled):
    reports = {path.name: json.loads(path.read_text()) for path in filled.glob("*.json")}
    assert misshapen({name: report for name, report in reports.items() if name in MODES}) == []


@pytest.mark.parametrize("name", MODES)
def test_every_described_field_is_one_that_is_written(name):
    """A field that a mode has renamed is found by its name, which nothing else of the package would hold."""
    rooms = ("modes", "evaluation", "metrics", "plan")
    written = "\n".join(path.read_text() for room in rooms for path in (PACKAGE / room).rglob("*.py"))
    keys = {key for path in forms(name) for key in path.split(".")} - {"*", "[]"}
    made = {key.removesuffix("_std_error") for key in keys}  # some are written beside the name of their number
    assert not {key for key in made if not re.search(rf"\b{key}(_std_error)?\b", written)}


def test_results_of_two_models_in_one_place_are_said_to_be(filled):
    """By the fingerprints of their parameters, where their steps are the same; averages of a width are many."""
    said = "likelihood.json and sampling.json are of different models of step 3000"
    paths = [filled / name for name in ("sampling.json", "likelihood.json")]
    whole = [path.read_bytes() for path in paths]

    def pages(*changes):
        for path, content, change in zip(paths, whole, changes, strict=True):
            path.write_text(json.dumps(json.loads(content) | change))
        texts = [html.unescape(page.read_text()) for page in (write_report(filled), write_summary(filled))]
        for path, content in zip(paths, whole, strict=True):
            path.write_bytes(content)
        return [said in text for text in texts]

    assert pages({"parameters": "x"}, {"parameters": "y"}) == [True, True]
    assert pages({"parameters": "x"}, {"parameters": "x"}) == [False, False]
    assert pages({"parameters": "x"}, {"parameters": "y", "step": 2000}) == [False, False]
    assert pages({"parameters": "x"}, {"parameters": "y", "ema_step": 3000}) == [False, False]
    entries = [{"step": 10, "parameters": "x"}, {"step": 20, "parameters": "y"}]
    assert of_several_models(
        {"evaluation.json": {"checkpoints": entries}, "import.json": {"step": 20, "parameters": "z"}}
    )
