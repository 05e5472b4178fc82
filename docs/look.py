"""Pages in a browser without a screen: what sticks out at the widths of a desktop and a phone, and what goes wrong.

``python docs/look.py build/docs`` looks at every page of a folder. It needs playwright and a Chromium on the path.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTHS = (1280, 390)  # pixels
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Shows all that a page may hide.
_OPENED = """() => {
    document.querySelectorAll("details").forEach((each) => (each.open = true));
    document.querySelectorAll("img").forEach((each) => (each.loading = "eager"));
}"""
#: The elements that are wider than the window, and are not in a box that scrolls.
_OUTSIDE = """() => [...document.body.querySelectorAll("*")].filter((element) => {
    if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let one = element.parentElement; one && one !== document.body; one = one.parentElement)
        if (getComputedStyle(one).overflowX !== "visible") return false;
    return true;
}).slice(0, 3).map((element) => element.outerHTML.slice(0, 80))"""


def problems_of(browser: Any, file: Path, width: int, scheme: str = "light") -> Iterator[str]:
    """Sentences about a page that is wider than a window, misses pictures, or has its browser complain or fetch."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.extend([request.url] * request.url.startswith("http")))
    page.goto(file.as_uri())
    page.evaluate(_OPENED)
    page.wait_for_function("[...document.images].every((each) => each.complete)")
    if not page.evaluate("[...document.images].every((each) => each.naturalWidth > 0)"):
        said.append("a picture is missing")
    if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
        said.append(f"{wide} pixels in a window of {width}: {' '.join(page.evaluate(_OUTSIDE))}")
    page.close()
    yield from (f"{file.name}: {sentence}" for sentence in said)


def main(folder: Path) -> int:
    """Look at every page of a folder."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        pages = sorted(folder.resolve().rglob("*.html"))
        found = [sentence for page in pages for width in WIDTHS for sentence in problems_of(browser, page, width)]
        browser.close()
    print(*found, f"{len(found)} problems on {len(pages)} pages.", sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
