r"""The error budget of a likelihood: the sources of its error and their sizes.

    NLL = value +- images +- probes +- solver,      truncation and prior beside it.

*Images* is the standard error over the images, including their noise and probes. *Probes* is the part due to the trace
estimator alone. *Solver* is the change under a ten times tighter tolerance, or half the step. *Truncation* is the
change under the Gaussian decoder at ``t_min``: without the decoder, the number is for the density at ``t_min``; with
it, a bound on ``-log p_0``. *Prior* is ``KL(p(x_1 | x) || prior)``: the cost of the information left in the data at
``t = 1``. Solver and truncation are differences on the first images, with everything else the same.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.data import Source
from score_sde.distributed import gathered
from score_sde.evaluation.base import Examples, Purpose, examples, mean_and_std_error, root_key
from score_sde.evaluation.likelihood import BinNoise, DatasetLikelihood, Draw, dequantized, flow_draw
from score_sde.experiment import Experiment
from score_sde.labels import data_of
from score_sde.likelihood import prior_divergence
from score_sde.typing import Params


class Difference(NamedTuple):
    """A mean difference and its standard error."""

    mean: float
    std_error: float


class ErrorBudget(NamedTuple):
    """Parts of the error of a mean negative log-likelihood, in the unit of the mean."""

    images: float  # standard error over the images
    probes: float  # standard error due to the probes; included in ``images``
    solver: Difference  # change under a finer solution
    truncation: Difference  # change under the decoder
    prior: float  # information left in the data at t = 1
    num_examples: int  # examples for solver, truncation and prior

    def interval(self, value: float) -> tuple[float, float]:
        """A 95 % interval for the mean over images, widened by the solver error.

        >>> budget = ErrorBudget(0.01, 0.0, Difference(0.0, 0.0), Difference(0.0, 0.0), 0.0, 1)
        >>> [round(end, 4) for end in budget.interval(2.0)]
        [1.9804, 2.0196]
        """
        half = 1.96 * float(np.hypot(self.images, self.solver.std_error)) + abs(self.solver.mean)
        return value - half, value + half


def error_budget(
    experiment: Experiment,
    params: Params,
    source: Source,
    result: DatasetLikelihood,
    *,
    noise: BinNoise,
    nats: bool = False,
) -> ErrorBudget:
    """The budget of the mean of a measured likelihood: bits/dim for images, nats per example for continuous data.

    If asked for, it is in nats for both.

    Failed solves are not counted.
    """
    count = min(experiment.settings.likelihood.budget_examples, len(result.nats))
    batch = next(examples(experiment, source, batch_size=count, limit=count))
    key = jax.random.fold_in(root_key(experiment, Purpose.BUDGET), 0)
    unit = 1.0
    if experiment.quantization.num_grey_levels is not None and not nats:
        unit = 1.0 / (float(np.prod(experiment.event_shape)) * np.log(2.0))

    def measured(key: Any = key, **changes: Any) -> Draw:
        # One probe for the whole solve: two solutions then differ by their solver error alone.
        draw = flow_draw(experiment, noise, **{"fresh_probes": False, **changes})
        return _counted(draw(params, noise.params, key, batch.data), batch)

    plain = measured(decoder=False)
    solver = difference(plain, measured(decoder=False, refinements=1))
    # Noise that is cut off at the ends of the bins makes a bound on the levels themselves, at any t_min.
    truncation = Difference(0.0, 0.0) if noise.decodes else difference(plain, measured(decoder=True))
    x, _ = dequantized(experiment, noise, noise.params, key, data_of(batch.data))
    prior = _counted(prior_divergence(experiment.sde, jnp.ones(()), x), batch)
    good = result.success
    return ErrorBudget(
        images=unit * mean_and_std_error(result.nats[good])[1],
        probes=unit * _probe_error(experiment, params, batch, result, noise),
        solver=Difference(*(unit * part for part in solver)),
        truncation=Difference(*(unit * part for part in truncation)),
        prior=unit * float(np.mean(prior)),
        num_examples=count,
    )


def _counted(tree: Any, batch: Examples) -> Any:
    """The rows of examples, without the padding of the batch."""
    return jax.tree.map(lambda column: column[batch.mask], gathered(tree))


def difference(first: Draw, second: Draw) -> Difference:
    """The mean change in negative log-likelihood from first to second, over examples solved by both."""
    good = np.asarray(first.success & second.success)
    values = np.asarray(first.logp - second.logp, np.float64)[good]
    return Difference(*mean_and_std_error(values)) if len(values) else Difference(float("nan"), float("nan"))


def _probe_error(
    experiment: Experiment, params: Params, batch: Examples, result: DatasetLikelihood, noise: BinNoise
) -> float:
    """The standard error of the mean over all images due to the probes, in nats.

    With several probes it follows from their spread; a single probe is drawn twice on a few images.
    """
    good, settings = result.success, experiment.settings.likelihood
    if settings.num_probes != 1:
        return float(np.sqrt(np.sum(result.probe_std_error[good] ** 2)) / good.sum())
    draw = flow_draw(experiment, noise, num_probes=2)
    key = jax.random.fold_in(root_key(experiment, Purpose.BUDGET), 1)
    pair = _counted(draw(params, noise.params, key, batch.data), batch)
    # Per image, the error of the mean of two probes; the error of a single probe is sqrt(2) times larger.
    variance = 2.0 * float(np.mean(pair.probe_std_error[pair.success] ** 2))
    return float(np.sqrt(variance / (good.sum() * settings.num_dequantizations)))
