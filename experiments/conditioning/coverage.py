"""How often do intervals of draws given observations hold the truth? A table of all methods on one run.

    python experiments/conditioning/coverage.py --workdir=runs/digits --out=DIR [--config.sampling.num_steps=100 ...]

Restores the first images of the test split by every method with ``--mode=restore``, which writes pictures and numbers
to a folder for each, and prints a row for each from its ``restoration.json``. What is restored already is read again.
"""

import itertools
import sys

from rows import cell, measured, parser_of

from score_sde.cli import run_script

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


def numbers(report: dict[str, float], **digits: int) -> list[str]:
    """Numbers of a report with their standard errors; a dash for what is not in it."""
    return [
        cell(report[name], report[f"{name}_std_error"], count) if name in report else "-"
        for name, count in digits.items()
    ]


def main() -> None:
    """Restore and print."""
    parser = parser_of(__doc__, "a trained run")
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
            place = args.out / f"{operator}-{noise_std:g}-{method}" / "restoration.json"
            named = {f"conditioning.{name}": value for name, value in fields.items()}
            report = measured("restore", place, args.workdir, {**named, **own}, overrides)
            found = numbers(report, coverage=3, residual=2, psnr_mean=1, psnr_draws=1)
            cost = f"{report['num_evals']:.0f} + {report['num_products']:.0f}"
            words = f"{OPERATORS[operator]} | {noise_std:g} | {method}"
            print(f"| {words} | {' | '.join(found)} | {cost} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_script("coverage", main))
