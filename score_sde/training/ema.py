"""Moving averages whose length is chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

At step ``t`` an average of exponent ``gamma`` weights the parameters of step ``tau`` by a power of ``tau``,

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),    0 < tau <= t,

so that it always covers the same share of the run. The standard deviation of this density, divided by ``t``, is the
relative width of the average; a rate of 0.9999 has a width of about 0.10 after 100,000 steps. Training tracks a few
widths and keeps snapshots of them; any other width, at any step, is then a weighted sum of the snapshots.

The recursion of :func:`track_power_averages` is exact for a trajectory that is constant during each step, so the
integrals below equal the sums.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float64

from score_sde.errors import UserError
from score_sde.typing import Number, Params, component, static

MAX_WIDTH = 0.28  # a plain mean has 0.289
MAX_WIDTHS = 4  # each takes the memory of the parameters; two suffice to reconstruct all others


@component
class PowerAverages:
    """The state of :func:`track_power_averages`: the step and one tree of averages per relative width."""

    count: Any  # int32 scalar
    averages: tuple[Params, ...]
    widths: tuple[float, ...] = static()


def width_to_exponent(width: float) -> float:
    """The exponent of a relative width, the inverse of :func:`exponent_to_width`.

    It is the largest root of ``gamma^3 + 7 gamma^2 + (16 - width^-2) gamma + 12 - width^-2``.

    Raises:
        UserError: If the width is not in (0, 0.28].

    >>> round(width_to_exponent(0.05), 2), round(width_to_exponent(0.10), 2)
    (16.97, 6.94)
    """
    if not 0.0 < width <= MAX_WIDTH:
        raise UserError(f"The relative width of an average is {width}; expected more than 0 and at most {MAX_WIDTH}.")
    precision = width**-2
    # For these widths all three roots are real.
    return float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max())


def exponent_to_width(exponent: float) -> float:
    """The relative width ``(gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2)`` of an exponent.

    >>> round(exponent_to_width(6.94), 4)
    0.1
    """
    return float(np.sqrt((exponent + 1.0) / (exponent + 3.0)) / (exponent + 2.0))


def track_power_averages(widths: Sequence[float]) -> optax.GradientTransformation:
    """Track averages of the parameters; comes last in a chain and passes the updates through.

    With ``rate = 1 - (1 - 1/t)^(gamma + 1)`` an average moves by ``rate (params - average)`` at step ``t``, which
    counts from 1: the first step forgets the initial parameters. The averages are part of the optimizer state, so they
    are sharded and saved with it; :func:`power_averages` finds them. They have the types of the parameters; in float32
    an average misses relative changes of a number below ``6e-8 t / (gamma + 1)``.

    Args:
        widths: Relative widths, each once.

    Raises:
        UserError: If a width is out of range or comes twice.

    >>> tx = optax.chain(optax.sgd(1.0), track_power_averages((0.05, 0.10)))
    >>> params, state = jnp.zeros(1), tx.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     updates, state = tx.update(-jnp.ones(1), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> round(float(power_averages(state)[0.10][0]), 5) == round(2.0 - 0.5 ** (width_to_exponent(0.10) + 1.0), 5)
    True
    """
    exponents = [width_to_exponent(width) for width in widths]
    if len(set(widths)) < len(widths):
        raise UserError(f"The relative widths of the averages are {tuple(widths)}; expected each once.")

    def init(params: Params) -> PowerAverages:
        copies = tuple(jax.tree.map(jnp.copy, params) for _ in widths)
        return PowerAverages(count=jnp.zeros((), jnp.int32), averages=copies, widths=tuple(widths))

    def update(
        updates: optax.Updates, state: PowerAverages, params: Params | None = None
    ) -> tuple[optax.Updates, PowerAverages]:
        if params is None:
            raise ValueError("Averages of the parameters need them: call update(updates, state, params).")
        params = optax.apply_updates(params, updates)
        count = optax.safe_increment(state.count)
        averages = tuple(
            _moved(average, params, _rate(count, exponent))
            for average, exponent in zip(state.averages, exponents, strict=True)
        )
        return updates, PowerAverages(count=count, averages=averages, widths=state.widths)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]  # its states are arrays


def _rate(count: Any, exponent: float) -> Any:
    # Evaluated as written, the formula is 1.5 % off in float32 after a million steps.
    return -jnp.expm1((exponent + 1.0) * jnp.log1p(-1.0 / count.astype(float)))


def _moved(average: Params, params: Params, rate: Any) -> Params:
    # This form preserves constants. In rate * params + (1 - rate) * average the factors do not sum to 1 in float32.
    return jax.tree.map(lambda a, p: a + rate.astype(a.dtype) * (p - a), average, params)


def power_averages(opt_state: Any) -> dict[float, Params]:
    """The averages in an optimizer state, by relative width; empty if it tracks none.

    The state may be chained or wrapped, and may hold shapes or shardings in place of arrays.

    >>> power_averages(optax.adam(1.0).init(jnp.zeros(1)))
    {}
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, PowerAverages))
    found = (node for node in nodes if isinstance(node, PowerAverages))
    return {width: tree for node in found for width, tree in zip(node.widths, node.averages, strict=True)}


def reconstruction_weights(
    times: Iterable[Number], widths: Iterable[Number], *, target_width: float, target_time: Number
) -> Float64[np.ndarray, " snapshots"]:
    """Weights of the snapshots that best approximate an average of another width.

    They minimize ``int (sum_i w_i p_i - p)^2 dtau`` for the densities ``p_i`` of the snapshots and ``p`` of the target
    (appendix C of Karras et al.), here subject to ``sum_i w_i = 1``, which preserves parameters that do not change in
    training. With snapshots of widths 0.05 and 0.10 at 30 evenly spaced steps the density is off by 1.3 % for a width
    of 0.03, by 0.1 to 0.8 % from 0.075 to 0.2, and by 4 % for 0.25, see :func:`reconstruction_error`; the averages
    themselves are closer.

    Args:
        times: The step of every snapshot, repeated for each of its widths.
        widths: The relative width of every snapshot.
        target_width: The target relative width, in (0, 0.28].
        target_time: The target step, between the first snapshot and the last.

    Returns:
        The weights, in the order of the snapshots. Some are negative.

    Raises:
        UserError: If there are no snapshots, if one comes twice, or if the target lies outside of them.

    >>> steps, widths = [1000, 1000, 2000, 2000], [0.05, 0.10, 0.05, 0.10]
    >>> weights = reconstruction_weights(steps, widths, target_width=0.08, target_time=2000)
    >>> weights.round(2), round(float(weights.sum()), 9)
    (array([ 0.01, -0.02,  0.28,  0.73]), 1.0)
    """
    times, exponents = _snapshots(times, widths)
    first, last = times.min(), times.max()
    if not first <= target_time <= last:
        raise UserError(
            f"The average is wanted at step {target_time}, and the snapshots are of steps {first:g} to {last:g}; "
            "expected a step between these."
        )
    exponent = width_to_exponent(target_width)
    gram = _inner(times[:, None], exponents[:, None], times, exponents)
    # Densities are scaled to norm 1. With two widths at 200 steps the condition number is then 2e7, otherwise 2e8.
    norms = np.sqrt(np.diag(gram))
    aims = np.stack([_inner(times, exponents, float(target_time), exponent) / norms, 1.0 / norms], axis=1)
    free, multiplier = np.linalg.lstsq(gram / np.outer(norms, norms), aims, rcond=None)[0].T / norms
    return free + multiplier * (1.0 - free.sum()) / multiplier.sum()


def reconstruction_error(
    weights: Float64[np.ndarray, " snapshots"],
    times: Iterable[Number],
    widths: Iterable[Number],
    *,
    target_width: float,
    target_time: Number,
) -> float:
    """The distance between the densities of a weighted sum and of the target, relative to the norm of the target.

    >>> round(reconstruction_error(np.ones(1), [1000], [0.10], target_width=0.05, target_time=1000), 2)
    0.47
    """
    times, exponents = _snapshots(times, widths)
    exponent, time = width_to_exponent(target_width), float(target_time)
    square = _inner(time, exponent, time, exponent)
    gram = _inner(times[:, None], exponents[:, None], times, exponents)
    distance = square - 2.0 * weights @ _inner(times, exponents, time, exponent) + weights @ gram @ weights
    return float(np.sqrt(np.maximum(distance, 0.0) / square))


def reconstruct(snapshots: Iterable[tuple[Number, Params]]) -> Params:
    """The sum of ``weight * tree``, computed in float64 on the host, as NumPy arrays with the types of the snapshots.

    Trees are consumed one at a time, so that a generator may read them from disk.

    Raises:
        UserError: If there are no snapshots, or if they are of different networks.

    >>> reconstruct([(0.25, {"a": np.float32([1.0])}), (0.75, {"a": np.float32([2.0])})])
    {'a': array([1.75], dtype=float32)}
    """
    first: Params = None
    totals: list[np.ndarray] = []
    for weight, tree in snapshots:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        if first is None:
            first, totals = shapes, [np.zeros(leaf.shape) for leaf in jax.tree.leaves(tree)]
        elif shapes != first:
            raise UserError("The snapshots differ in structure, shapes or types; expected those of one run.")
        _add(totals, float(weight), tree)
        del tree  # free it before the next one is read
    if first is None:
        raise _no_snapshots()
    leaves, structure = jax.tree.flatten(first)
    return structure.unflatten([total.astype(leaf.dtype) for total, leaf in zip(totals, leaves, strict=True)])


def _add(totals: list[np.ndarray], weight: float, tree: Params) -> None:
    for total, leaf in zip(totals, jax.tree.leaves(tree), strict=True):
        total += weight * np.asarray(leaf, np.float64)


def _no_snapshots() -> UserError:
    return UserError(
        "There are no snapshots of averages; train with config.optim.ema_widths and config.optim.ema_snapshot_every."
    )


def _snapshots(times: Iterable[Number], widths: Iterable[Number]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and exponents of the snapshots, in float64."""
    pairs = list(zip(map(float, times), map(float, widths), strict=True))
    if not pairs:
        raise _no_snapshots()
    if twice := sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        raise UserError(f"The snapshot of step {twice[0][0]:g} and width {twice[0][1]:g} is there more than once.")
    if not min(pairs)[0] > 0.0:
        raise UserError(f"There is a snapshot of step {min(pairs)[0]:g}; expected steps from 1.")
    return np.array([time for time, _ in pairs]), np.array([width_to_exponent(width) for _, width in pairs])


def _inner(time_a: Any, exponent_a: Any, time_b: Any, exponent_b: Any) -> Any:
    """The integral of the product of two densities; arrays broadcast.

    With the later time ``u`` and its exponent ``gamma_u`` it is
    ``(gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (min / u)^gamma_u / u``, which does not overflow.
    """
    early, late = np.minimum(time_a, time_b), np.maximum(time_a, time_b)
    exponent = np.where(np.greater(time_a, time_b), exponent_a, exponent_b)
    factor = (exponent_a + 1.0) * (exponent_b + 1.0) / (exponent_a + exponent_b + 1.0)
    return factor * (early / late) ** exponent / late
