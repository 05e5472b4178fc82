"""The page of a run is whole, self-contained and safe, whatever lies in the working directory."""

import base64
import html.parser
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from score_sde.errors import UserError
from score_sde.files import atomic_write_json
from score_sde.modes.reporting import run_report
from score_sde.report import svg
from score_sde.report.page import write_report
from score_sde.report.quantities import facts, quantities
from score_sde.report.run import read_run
from score_sde.report.summary import write_summary
from tests.report.runs import HOW, MACHINE, fill, some_metrics

VOID = {"br", "col", "hr", "img", "input", "meta"}
HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"


class Page(html.parser.HTMLParser):
    """A strict reader: every tag that opens closes, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.headings = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    fill(directory / "first")
    fill(directory / "second", seed=1, shift=0.05)
    return directory


@pytest.fixture
def run(filled, tmp_path):
    return shutil.copytree(filled / "first", tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))


def _read(path):
    page = Page(path.read_text(encoding="utf-8"))
    _check_structure(page)
    return page


def _check_structure(page):
    """What must hold of every page."""
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"] for link in page.named("a")} == {f"#{name}" for name in ids}
    for image in page.named("img"):
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64" and image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert picture.size == (int(image["width"]), int(image["height"]))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert all(re.match("data:|#", value) for name, value in attributes.items() if name in ("src", "href"))
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(page.headings, page.headings[1:], strict=False))
    assert not page.named("script") and len(page.named("style")) == 1
    assert all(chart["aria-label"] for chart in page.named("svg"))
    assert not any("nan" in path["d"] or "inf" in path["d"] for path in page.named("path"))
    assert all(cell["scope"] in ("row", "col") for cell in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))


def test_a_complete_run_shows_everything(run):
    page = _read(write_report(run))
    assert not page.named("p") or "missing" not in {each.get("class") for each in page.named("p")}
    for expected in (
        "Fréchet distance", "Sliced Wasserstein distance", "95 % interval 1.900 to 2.100", "Gradient norm",
        "Throughput", "step 10", "Through training", "From noise to data", "Error budget", "Where the bits are spent",
        "Rate and distortion", "Recommended sampler", "heun on the edm grid, 16 evaluations", "2,000 best",
        "Restored images", "1 image, 19 draws each; mmps, mask, noise 0.1", "90 % for draws of the posterior",
        "153 products with the Jacobian", "image 1",
        "Accuracy by the likelihood of each class", "classifier-digits, the same images", "Accuracy by noise level",
        "Efficiency on more devices", "Take more.", "optim.lr",
        "2 CPUs of Some CPU", "2026-01-02 03:04:05 UTC, step 3,000", HOW["command"], "samples.png", "3,000", "1,234",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert len(page.named("img")) == 6
    assert len(page.named("svg")) >= 15


def test_the_page_asks_the_network_for_nothing_and_runs_no_script(run, filled):
    text = write_report(run, [filled / "second"]).read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|<script|javascript:", text)
    policy = next(each["content"] for each in Page(text).named("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


@pytest.mark.parametrize("only", ["config.json", "metrics.jsonl", "likelihood.json", "metrics.json", "plan.json"])
def test_one_file_is_enough_and_what_is_missing_is_named(run, tmp_path, only):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / only, bare / only)
    page = _read(write_report(bare))
    for mode in {"train", "sample", "likelihood", "eval", "pareto"} - {
        {"config.json": "train", "metrics.jsonl": "train", "likelihood.json": "likelihood"}.get(only)
    }:  # fmt: skip
        assert f"--mode={mode}" in page.text, mode


def test_hostile_text_comes_out_as_text(run):
    config = {"seed": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}, "data": {"name": HOSTILE}, "optim": {"lr": HOSTILE}}
    (run / "config.json").write_text(json.dumps(config))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4000, "loss": 0.5, HOSTILE: 0.25, "eval_loss": HOSTILE}) + "\n")
    for name in (
        "likelihood",
        "metrics",
        "plan",
        "sampling",
        "evaluation",
        "eval",
        "pareto",
        "latents",
        "dequantizer",
        "restoration",
        "classification",
        "classifier",
    ):
        report = _replaced(json.loads((run / f"{name}.json").read_text()), HOSTILE)
        report |= {"command": HOSTILE, HOSTILE: {"value": 1.0, "protocol": {HOSTILE: HOSTILE}}}
        if name == "metrics":
            report["metrics"] |= {HOSTILE: report[HOSTILE]}
        report["hardware"] = dict.fromkeys(MACHINE, HOSTILE)
        (run / f"{name}.json").write_text(json.dumps(report))
    (run / "<script>alert(3)<").write_text("")
    page = _read(write_report(run, [run]))
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in page.text
    assert "<script>alert(3)<" in page.text


def _replaced(value, text):
    """JSON with its words replaced and its numbers left."""
    if isinstance(value, dict):
        return {name: _replaced(each, text) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, text) for each in value]
    return text if isinstance(value, str) else value


JUNK = (None, True, "word", [], {}, [1, "x"], {"mean": "x"}, -1, 0, 1e308, 10**400, float("nan"), float("inf"), 1e-320)


@pytest.mark.parametrize(
    "name",
    [
        "likelihood",
        "metrics",
        "evaluation",
        "pareto",
        "plan",
        "sampling",
        "eval",
        "restoration",
        "classification",
        "classifier",
    ],
)
def test_no_value_of_a_report_stops_the_page(run, name):
    report = json.loads((run / f"{name}.json").read_text())
    rng = np.random.default_rng(0)
    for _ in range(4):
        (run / f"{name}.json").write_text(json.dumps(_spoilt(report, rng)))
        _read(write_report(run))


def _spoilt(value, rng):
    """JSON with about every seventh part replaced by something that is not expected there."""
    if rng.random() < 0.15:
        return JUNK[rng.integers(len(JUNK))]
    if isinstance(value, dict):
        return {name: _spoilt(each, rng) for name, each in value.items()} if value else value
    return [_spoilt(each, rng) for each in value] if isinstance(value, list) else value


def test_no_line_of_metrics_stops_the_page(run):
    rng = np.random.default_rng(1)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for _ in range(3):
        spoilt = "\n".join(json.dumps(_spoilt(line, rng)) for line in lines)
        (run / "metrics.jsonl").write_text(spoilt + '\n{"step": 1')
        _read(write_report(run, [run]))


def test_numbers_that_are_none_are_said_and_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3100, "loss": NaN}\n{"step": 3200, "loss": Infinity}\n')
    page = _read(write_report(run))
    assert "2 values are no finite numbers and are left out." in page.text


def test_lines_that_are_left_out_are_counted(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1e999}\n\n\xff\n{"step": 3300, "lo')
    assert "3 of the lines of metrics.jsonl cannot be read; they are left out." in _read(write_report(run)).text


def test_damaged_files_are_named(run):
    (run / "likelihood.json").write_text("{")
    (run / "plan.json").write_text("[" * 100_000)
    (run / "eval.json").write_text("[1]")
    (run / "samples.png").write_bytes((run / "samples.png").read_bytes()[:200])
    (run / "trajectory.png").write_bytes(b"GIF89a")
    page = _read(write_report(run))
    for problem in ("likelihood.json cannot be read (Expecting", "plan.json cannot be read (it is nested too deeply)",
                    "eval.json cannot be read (it is JSON, but no object)",
                    "samples.png is no whole PNG", "trajectory.png is no whole PNG"):  # fmt: skip
        assert problem in page.text, problem


def test_a_damaged_archive_leaves_the_picture_in_its_place(run):
    (run / "likelihood.npz").write_bytes(b"PK\x03\x04 nothing")
    shutil.copy(run / "samples.png", run / "likelihood.png")
    page = _read(write_report(run))
    assert "likelihood.npz cannot be read" in page.text
    assert "Held-out images: likelihood" in [image["alt"] for image in page.named("img")]


def test_two_pages_of_a_run_are_the_same_bytes(run, filled):
    def pages():
        write_report(run, [filled / "second"])
        write_summary(run)
        return [(run / name).read_bytes() for name in ("report.html", "summary.md")]

    first = pages()
    svg.svg.cache_clear()
    assert pages()[0] == first[0] and pages()[1] == pages()[1]


def test_every_quantity_is_on_both_pages_and_nothing_else_is_called_one(run):
    found = quantities(read_run(run))
    files = {each.file for each in found}
    assert {"likelihood.json", "metrics.json", "eval.json", "metrics.jsonl", "sampling.json", "pareto.json"} < files
    page, summary = _read(write_report(run)).text, write_summary(run).read_text(encoding="utf-8")
    for each in found:
        assert f"{each.label} {each.text}" in page, each.label
        assert re.search(rf"\| {re.escape(each.label)} \| (\*\*)?{re.escape(each.text)}(\*\*)? \|", summary), each.label
    rows = re.findall(r"^\| (\S.*?) \|", summary.partition("## Pictures")[0].partition("---|")[2], re.MULTILINE)
    assert rows == [each.label for each in found] + [name for name, _ in facts(read_run(run))]


def test_differences_are_paired_over_images_and_their_errors_small(filled):
    page = _read(write_report(filled / "first", [filled / "second"]))
    first, second = (np.load(filled / name / "likelihood.npz")["bits_per_dim"] for name in ("first", "second"))
    change = (second.astype(np.float64) - first).mean()
    error = (second.astype(np.float64) - first).std(ddof=1) / math.sqrt(60)
    assert error < 0.1 * first.std(ddof=1) / math.sqrt(60)  # the images themselves cancel
    assert f"+{change:.4f} ± {error:.4f} paired over 60 images" in page.text
    assert "independent errors" in page.text
    assert "seed 0 1" in page.text and "Settings that differ" in page.text
    assert "seed 0 changed" in page.text and "lr 0.5 changed" in page.text


def test_likelihoods_of_other_data_are_not_paired(filled, tmp_path):
    other = shutil.copytree(filled / "second", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    atomic_write_json(other / "config.json", {**config, "data": {"name": "mnist"}})
    page = _read(write_report(filled / "first", [other]))
    assert "paired over" not in page.text


def test_numbers_of_unlike_protocols_are_shown_and_not_subtracted(filled, tmp_path):
    other = shutil.copytree(filled / "second", tmp_path / "other")
    likelihood = json.loads((other / "likelihood.json").read_text())
    atomic_write_json(other / "likelihood.json", {**likelihood, "protocol": "flow, tolerance 0.001, 60 examples"})
    atomic_write_json(other / "metrics.json", {"metrics": some_metrics(1, count=50)})
    page = _read(write_report(filled / "first", [other]))
    assert "not comparable: protocol (48 steps and tolerance 0.001)" in page.text
    assert "not comparable: num_samples (80 and 50)" in page.text


@pytest.mark.parametrize(
    ("group", "field", "value", "said"),
    [("objective", "kind", "sliced", "denoising and sliced"), ("sde", "name", "ve", "vp and ve")],
)
def test_losses_of_two_things_are_not_subtracted(filled, tmp_path, group, field, value, said):
    other = shutil.copytree(filled / "second", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    atomic_write_json(other / "config.json", {**config, group: {**config.get(group, {}), field: value}})
    page = _read(write_report(filled / "first", [other]))
    assert f"not comparable: {group}.{field} ({said})" in page.text
    assert "These losses are of different things" in page.text
    assert "These losses are of different things" not in _read(write_report(filled / "first", [filled / "second"])).text


def test_runs_of_one_name_are_told_apart(filled, tmp_path):
    twin = shutil.copytree(filled / "second", tmp_path / "first")
    page = _read(write_report(filled / "first", [twin]))
    assert f"{tmp_path.name}/first (2)" in page.text


def test_the_mode_needs_no_configuration(run):
    run_report(None, run, "python -m score_sde --mode=report", compare=(run,))
    assert "Comparison" in _read(run / "report.html").text


def test_a_page_may_go_to_a_directory_that_is_not_there_yet(run, tmp_path):
    place = tmp_path / "new" / "place"
    with pytest.raises(UserError, match="no directory"):
        write_report(tmp_path / "nowhere", out=place)
    assert not place.parent.exists()
    assert write_report(run, out=place).parent == place
    assert [file.name for file in place.iterdir()] == ["report.html"]


def test_a_directory_without_a_run_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"There is no run in .*empty: none of config.json"):
        write_report(tmp_path / "empty")
    with pytest.raises(UserError, match=r"There is no directory .*nowhere"):
        write_report(run, [tmp_path / "nowhere"])
    assert not (run / "report.html").exists()
