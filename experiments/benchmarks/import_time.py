"""Does the package import as fast as JAX alone? Fresh interpreters, in turns.

    python experiments/benchmarks/import_time.py --rounds 7

``import score_sde`` loads its public names on first use, so all of them together are timed as well. The last column
lists the heavy dependencies that a statement has brought along. Bytecode and file caches are warm.
"""

import json
import subprocess
import sys
from typing import NamedTuple

import numpy as np
from harness import parser_for

#: None of these may come with ``import score_sde``; they are loaded where they are used.
HEAVY = ("flax", "grain", "orbax", "tensorflow_datasets", "diffrax", "optax", "ml_collections", "matplotlib", "sklearn")

STATEMENTS = {
    "jax": "import jax",
    "score_sde": "import score_sde",
    "score_sde, all names": "import score_sde; [getattr(score_sde, name) for name in score_sde.__all__]",
}

_PROBE = """
import sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
import json
print(json.dumps([seconds, [name for name in {heavy!r} if name in sys.modules]]))
"""


class Import(NamedTuple):
    """Seconds that a statement took in a fresh interpreter, and the heavy packages it loaded."""

    seconds: float
    heavy: list[str]


def measure(statement: str) -> Import:
    """Run ``statement`` in a fresh interpreter."""
    probe = _PROBE.format(statement=statement, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    return Import(*json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    """Time every statement and print medians, ratios to JAX and heavy packages."""
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interpreters per statement")
    rounds = parser.parse_args().rounds
    heavy = {label: measure(statement).heavy for label, statement in STATEMENTS.items()}  # fills caches as well
    seconds: dict[str, list[float]] = {label: [] for label in STATEMENTS}
    for _ in range(rounds):
        for label, statement in STATEMENTS.items():
            seconds[label].append(measure(statement).seconds)
    jax_median = np.median(seconds["jax"])
    print(f"{'':<24}{'median s':>10}{'min s':>10}{'to jax':>10}  heavy packages")
    for label, values in seconds.items():
        median = np.median(values)
        loaded = ", ".join(heavy[label]) or "none"
        print(f"{label:<24}{median:>10.3f}{min(values):>10.3f}{median / jax_median:>10.2f}  {loaded}")


if __name__ == "__main__":
    main()
