"""One self-contained page per run, ``report.html``: numbers with their errors, curves, pictures, and how it was made.

A page is built from whatever lies in a working directory; no network, no model and no device is needed to read it or to
make it. All text that comes from files is escaped by the templates (:mod:`score_sde.report.rendering`).
"""

from score_sde.report.page.document import write_report

__all__ = ["write_report"]
