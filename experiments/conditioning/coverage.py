"""How often do intervals of draws given observations hold the truth? A table of all methods on one run.

    python experiments/conditioning/coverage.py --workdir=runs/digits --out=DIR [--config.sampling.num_steps=100 ...]

Restores the first images of the test split by every method with ``--mode=restore``, which writes pictures and numbers
to a folder for each, and prints a row for each from its ``restoration.json``. What is restored already is read again.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from score_sde.cli import main as score_sde

#: Methods with noise and without, and fields beside those of the command line.
NOISY = {
    "mmps": {},
    "pigdm": {},
    "daps": {"conditioning.flow_steps": 1},
    "tds": {"conditioning.num_particles": 64},
    "dps": {"sampling.num_steps": 100},
}
EXACT = {
    "ddnm": {},
    "daps": {"conditioning.flow_steps": 1},
    "repaint": {"sampling.predictor": "ancestral"},
    "mmps": {},
}
OPERATORS = {"mask": "the upper half", "downsample": "2 x 2 means"}


def restored(workdir: Path, place: Path, fields: dict[str, object], overrides: list[str]) -> dict[str, float]:
    """The numbers of one method, measured unless they are there."""
    report = place / "restoration.json"
    if not report.exists():
        own = [f"--config.{name}={value}" for name, value in fields.items()]
        code = score_sde([f"--workdir={workdir}", f"--out={place}", "--mode=restore", *overrides, *own])
        if code:
            sys.exit(code)
    return json.loads(report.read_text())


def cell(report: dict[str, float], name: str, digits: int) -> str:
    """A number with its standard error."""
    if name not in report:
        return "-"
    return f"{report[name]:.{digits}f} ± {report[f'{name}_std_error']:.{digits}f}"


def main() -> None:
    """Restore and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run")
    parser.add_argument("--out", type=Path, required=True, help="where the results go, a folder for each row")
    parser.add_argument("--images", type=int, default=64, help="images of the test split")
    parser.add_argument("--draws", type=int, default=19, help="draws of each; 19, 39, ... make intervals of 90 %%")
    parser.add_argument("--noise", type=float, nargs="+", default=(0.1, 0.0), help="standard deviations of the noise")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=("mask",), help="what is observed")
    args, overrides = parser.parse_known_args()
    print("| observed | noise | method | coverage | residual | PSNR of the mean | of a draw | evaluations + products |")
    print("|---|---|---|---|---|---|---|---|")
    for operator, noise_std in itertools.product(args.operators, args.noise):
        for method, own in (NOISY if noise_std else EXACT).items():
            if method == "repaint" and operator != "mask":
                continue
            fields = {"operator": operator, "method": method, "noise_std": noise_std}
            fields |= {"num_images": args.images, "draws": args.draws}
            place = args.out / f"{operator}-{noise_std:g}-{method}"
            named = {f"conditioning.{name}": value for name, value in fields.items()}
            report = restored(args.workdir, place, {**named, **own}, overrides)
            numbers = [cell(report, "coverage", 3), cell(report, "residual", 2)]
            numbers += [cell(report, "psnr_mean", 1), cell(report, "psnr_draws", 1)]
            cost = f"{report['num_evals']:.0f} + {report['num_products']:.0f}"
            words = f"{OPERATORS[operator]} | {noise_std:g} | {method}"
            print(f"| {words} | {' | '.join(numbers)} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
