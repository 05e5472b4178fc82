"""What the scripts of this folder share: their first arguments, and measurements that are made once."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.cli import main as score_sde


def parser_of(doc: str | None, run: str) -> argparse.ArgumentParser:
    """A parser with the arguments of all scripts: the run to measure, and a folder for the results."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help=run)
    parser.add_argument("--out", type=Path, required=True, help="where the results go, a folder for each row")
    return parser


def measured(
    mode: str, report: Path, workdir: Path, fields: Mapping[str, object], overrides: Sequence[str]
) -> dict[str, Any]:
    """The report of a mode with some fields of the configuration, measured unless it is there."""
    if not report.exists():
        own = [f"--config.{name}={value}" for name, value in fields.items()]
        code = score_sde([f"--workdir={workdir}", f"--out={report.parent}", f"--mode={mode}", *overrides, *own])
        if code:
            sys.exit(code)
    return json.loads(report.read_text())


def cell(value: float, error: float, digits: int) -> str:
    """A number with its standard error."""
    return f"{value:.{digits}f} ± {error:.{digits}f}"
