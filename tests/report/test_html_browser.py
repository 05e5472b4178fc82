"""In a browser the page is whole, quiet and as wide as the window; this needs playwright and a Chromium on the path."""

from pathlib import Path

import numpy as np
import pytest

from score_sde.files import atomic_write_json
from score_sde.report.page import write_report
from score_sde.report.plots import image_grid
from score_sde.training.writers import MetricWriter
from tests.scripts import load_script

playwright = pytest.importorskip("playwright.sync_api")
looking = load_script(Path(__file__).parents[2] / "docs" / "look.py")
if looking.CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / ("a_run_with_a_name_that_is_longer_than_a_telephone_is_wide" * 2)
    workdir.mkdir()
    writer = MetricWriter(workdir)
    for step in range(100, 2001, 100):
        writer.write(step, {"loss": 30.0 / step, "eval_loss": 31.0 / step, "eval_loss_std_error": 0.01})
    bits = {"bits_per_dim": 2.0, "std_error": 0.02, "bound_bits_per_dim": 2.1, "bound_std_error": 0.02}
    atomic_write_json(workdir / "likelihood.json", {**bits, "command": "python " + "--config.a.b=c" * 40})
    atomic_write_json(workdir / "config.json", {"data": {"name": "x" * 300}, "seed": list(range(200))})
    levels = np.random.default_rng(0).integers(0, 17, size=(64, 8, 8, 1))
    for name in ("samples.png", "progress/step_00000001.png", "progress/step_00000002.png"):
        image_grid(levels, workdir / name, num_grey_levels=17, columns=64)
    return write_report(workdir, [workdir])


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=looking.CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", looking.WIDTHS)
def test_the_page_is_whole_quiet_and_as_wide_as_the_window(report, browser, scheme, width):
    assert not list(looking.problems_of(browser, report, width, scheme))


def test_a_page_that_sticks_out_lacks_a_picture_fails_or_fetches_is_told_of(browser, tmp_path):
    wide, scrolls = '<p style="width: 500px">wide</p>', '<div style="overflow-x: auto"><p style="width: 500px"></div>'
    planted = {
        "a picture is missing": '<img src="lost.png">',
        "planted": "<script>throw new Error('planted')</script>",
        "https://example.invalid/": '<link rel="stylesheet" href="https://example.invalid/">',
        "390: <p style": wide,
    }
    for name, (said, body) in enumerate(planted.items()):
        page = tmp_path / f"{name}.html"
        page.write_text(f"<!doctype html><body>{scrolls}{body}")
        assert any(said in sentence for sentence in looking.problems_of(browser, page, 390)), said
