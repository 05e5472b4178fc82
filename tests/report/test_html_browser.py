"""In a browser the page is whole, quiet and as wide as the window; this needs playwright and a Chromium on the path."""

import shutil

import numpy as np
import pytest

from score_sde.files import atomic_write_json
from score_sde.report.page import write_report
from score_sde.report.plots import image_grid
from score_sde.training.writers import MetricWriter

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
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
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_quiet_and_as_wide_as_the_window(report, browser, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.evaluate("document.querySelectorAll('img').forEach(each => each.loading = 'eager')")
    page.wait_for_function("[...document.images].every(each => each.complete)")
    assert page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == [] and all(url == report.as_uri() or url.startswith("data:") for url in asked)
    page.close()
