"""What does guidance by a class cost? Recognized samples, Fréchet distance, precision and recall by scale.

    python experiments/conditioning/guidance.py --workdir=runs/classes --out=DIR [--config.sampling.num_steps=20 ...]

Measures samples of a run with classes by ``--mode=eval`` at every scale, at some also in an interval of noise levels
and rescaled, and prints a row for each. What is measured already is read again.
"""

import sys

from rows import cell, measured, parser_of

from score_sde.cli import run_script


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__, "a trained run with classes")
    parser.add_argument("--samples", type=int, default=500, help="samples of each row")
    parser.add_argument("--scales", type=float, nargs="+", default=(0.0, 1.0, 2.0, 4.0), help="without a limit")
    parser.add_argument("--limited", type=float, nargs="*", default=(2.0,), help="with an interval, and rescaled")
    parser.add_argument("--interval", type=float, nargs=2, default=(0.3, 3.0), help="noise-to-signal ratios")
    parser.add_argument("--rescale", type=float, default=0.0, help="as conditioning.rescale; 0 for no such row")
    args, overrides = parser.parse_known_args()
    low, high = args.interval
    rows: dict[str, dict[str, object]] = {f"{scale:g}": {"scale": scale} for scale in args.scales}
    for scale in args.limited:
        interval = {"scale": scale, "guidance_interval": f"({low:g},{high:g})"}
        rows |= {f"{scale:g}, noise {low:g} to {high:g} of the signal": interval}
        if args.rescale:
            rows |= {f"{scale:g}, rescaled by {args.rescale:g}": {"scale": scale, "rescale": args.rescale}}
    sampling = [f"--config.evaluation.num_samples={args.samples}", *overrides]
    print("| scale | recognized | Fréchet distance | precision | recall |")
    print("|---|---|---|---|---|")
    for number, (name, fields) in enumerate(rows.items()):
        own = {f"conditioning.{field}": value for field, value in fields.items()}
        report = measured("eval", args.out / f"row-{number}" / "evaluation.json", args.workdir, own, sampling)
        found = report["checkpoints"][-1]
        cells = [cell(100.0 * found["class_accuracy"], 100.0 * found["class_accuracy_std_error"], 1) + " %"]
        for metric, digits in (("frechet", 1), ("precision", 3), ("recall", 3)):
            cells.append(cell(found["metrics"][metric]["value"], found["metrics"][metric]["std_error"], digits))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_script("guidance", main))
