r"""The samplers on a problem whose answer is known: errors at few evaluations, measured orders.

Data are a Gaussian in 16 dimensions with covariance ``0.25 * 0.8^|i - j|``. For a process with marginal ``(m, s)`` the
probability flow from ``t`` to ``s`` multiplies the coordinate along an eigenvector of variance ``w`` by
``sqrt((m_s^2 w + s_s^2) / (m_t^2 w + s_t^2))``, so the error of a solver is known to the last digit.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.sampling import GRIDS, integrate, sample_keys
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.solvers import DETERMINISTIC, Solver
from score_sde.typing import ScoreFn

_DIM, _POINTS = 16, 32
_INDEX = np.arange(_DIM)
_VARIANCES, _BASIS = np.linalg.eigh(0.25 * 0.8 ** np.abs(_INDEX[:, None] - _INDEX[None]))


class Case(NamedTuple):
    """A process and where on it sampling ends."""

    name: str
    sde: SDE
    t_end: float


#: The problems: VE between noise levels 80 and 0.02, VP and sub-VP to their usual ends.
CASES = (
    Case("VE", VE(sigma_min=0.02, sigma_max=80.0), 0.0),
    Case("VP", VP(), 1e-3),
    Case("sub-VP", SubVP(), 1e-3),
)
#: Grids that a solver in time, and one in the noise level, is best on.
GRID_OF = {"euler": "log_snr", "heun": "log_snr", "edm_heun": "edm"}


class Row(NamedTuple):
    """One solver on one process."""

    sde: str
    solver: str
    grid: str
    errors: dict[int, float]  # relative error by number of evaluations
    order: float  # measured between the two finest grids


def exact_score(sde: SDE) -> ScoreFn:
    """The score of the Gaussian's marginals."""

    def score_fn(x: jax.Array, t: jax.Array, /) -> jax.Array:
        mean_coeff, std = sde.marginal(t)
        variances = (mean_coeff**2)[:, None] * _VARIANCES[None] + (std**2)[:, None]
        return -((x @ _BASIS) / variances) @ _BASIS.T

    return score_fn


def relative_error(case: Case, solver: Solver, grid: str, num_steps: int) -> float:
    """``|x - x_exact| / |x_exact|`` over 32 starting points from the prior."""
    sde = case.sde
    start = sde.prior_std * jnp.asarray(np.random.RandomState(1).randn(_POINTS, _DIM))
    times = GRIDS[grid](sde, num_steps, case.t_end)
    keys = sample_keys(jax.random.key(0), 0, _POINTS)
    process = sde.probability_flow(exact_score(sde))
    x = jax.jit(lambda z, grid: integrate(keys, solver, process, z, grid).x)(start, times)
    (m0, s0), (m1, s1) = sde.marginal(times[0]), sde.marginal(times[-1])
    gain = jnp.sqrt((m1**2 * _VARIANCES + s1**2) / (m0**2 * _VARIANCES + s0**2))
    exact = ((start @ _BASIS) * gain[None]) @ _BASIS.T
    return float(jnp.linalg.norm(x - exact) / jnp.linalg.norm(exact))


def conformance_rows(
    solvers: Iterable[str] = DETERMINISTIC,
    *,
    cases: Sequence[Case] = CASES,
    evals: Sequence[int] = (8, 16, 32, 64),
    order_steps: tuple[int, int] = (1024, 2048),
) -> Iterable[Row]:
    """The rows of the table, in double precision, one at a time."""
    for case in cases:
        for name in solvers:
            solver, grid = DETERMINISTIC[name](), GRID_OF.get(name, "log_snr")
            with jax.enable_x64(True):
                errors = {n: relative_error(case, solver, grid, n // solver.num_evals) for n in evals}
                coarse, fine = (relative_error(case, solver, grid, n) for n in order_steps)
            order = float(np.log(coarse / fine) / np.log(order_steps[1] / order_steps[0]))
            yield Row(case.name, name, grid, errors, order)


def conformance_markdown(rows: Sequence[Row], provenance: dict[str, Any]) -> str:
    """The table as a page."""
    evals = list(rows[0].errors)
    lines = [
        "# Samplers on a problem with a known answer",
        "",
        "Relative error of the probability flow of a correlated Gaussian in 16 dimensions, by number of evaluations of "
        "the score, in double precision; the order is measured where steps are small.",
        "",
        "| process | solver | grid | " + " | ".join(map(str, evals)) + " | measured order |",
        "|---|---|---|" + "---|" * (len(evals) + 1),
    ]
    for row in rows:
        errors = " | ".join(f"{row.errors[n]:.2g}" for n in evals)
        lines.append(f"| {row.sde} | {row.solver} | {row.grid} | {errors} | {row.order:.2f} |")
    lines += ["", f"`{provenance['command']}`, {provenance['date']}, {provenance['hardware']['cpu']}."]
    return "\n".join(lines) + "\n"
