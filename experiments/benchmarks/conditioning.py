"""What do guidance and a posterior score cost, beside a plain evaluation of the network?

    python experiments/benchmarks/conditioning.py

The network of ``configs/vp/digits_classes.py``, masked images. Ratios of wall-clock and processor time to an evaluation
of the network, in a loop as solvers make them, in turns in one process: the median and the quartiles of the rounds. If
a product with the Jacobian costs as much as an evaluation, ``n`` iterations of MMPS cost ``1 + n``, and PiGDM and DPS
2. Guidance evaluates the network twice, as one batch.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import interleave, parser_for

from score_sde.cli import run_script
from score_sde.conditioning import operators, posterior_score
from score_sde.conditioning.classes import class_score
from score_sde.config import from_file
from score_sde.distributed import compiler_options
from score_sde.errors import plural
from score_sde.labels import Conditioned
from score_sde.modes.workdir import build_experiment
from score_sde.paths import config_file
from score_sde.typing import ScoreFn


def main() -> None:
    """Print a row for each score."""
    parser = parser_for(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="batch size")
    parser.add_argument("--iterations", type=int, nargs="*", default=(1, 2, 3, 5), help="iterations of MMPS")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of one block each")
    parser.add_argument("--steps", type=int, default=3, help="evaluations of a block")
    args = parser.parse_args()
    cases = {f"MMPS, {count} {plural(count, 'iteration')}": {"iterations": count} for count in args.iterations}
    cases |= {"PiGDM": {"method": "pigdm"}, "DPS": {"method": "dps"}}
    experiment = build_experiment(from_file(config_file("vp/digits_classes")))
    params = jax.jit(lambda: experiment.network.init(jax.random.key(0), (1, *experiment.event_shape)))()
    shape = (args.batch, *experiment.event_shape)
    operator = operators.mask(np.arange(8)[:, None, None] < np.full(experiment.event_shape, 4))
    plain, y = experiment.score_fn(params), jnp.zeros((1, *experiment.event_shape))
    guided = class_score(experiment.score_fn, Conditioned(params, jnp.arange(args.batch) % 10), 2.0)
    scores = {"the network alone": plain, "classifier-free guidance": guided}
    for name, options in cases.items():
        scores[name] = posterior_score(experiment.process, plain, operator, y, 0.1, **options)
    x, t = jax.random.normal(jax.random.key(1), shape), jnp.full(args.batch, 0.3)
    compiled = {name: looped(score).lower(x, t, args.steps).compile() for name, score in scores.items()}

    def block(name: str) -> object:
        return jax.block_until_ready(compiled[name](x, t, args.steps))

    times = interleave({name: lambda name=name: block(name) for name in scores}, rounds=args.rounds, steps=args.steps)
    first = next(iter(scores))
    print("| score | wall-clock time | processor time |")
    print("|---|---|---|")
    for name in scores:
        cells = []
        for mine, other in zip(times[name], times[first], strict=True):
            low, middle, high = np.quantile(mine / other, (0.25, 0.5, 0.75))
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


def looped(score: ScoreFn) -> Any:
    """The function ``(x, t, count)`` that evaluates a score in a loop, as solvers do."""
    return jax.jit(
        lambda x, t, count: jax.lax.fori_loop(0, count, lambda _, x: x + 1e-3 * score(x, t), x),
        compiler_options=compiler_options(),
    )


if __name__ == "__main__":
    sys.exit(run_script("conditioning", main))
