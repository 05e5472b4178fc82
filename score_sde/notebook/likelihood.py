"""The likelihood of given data, with its error budget."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from score_sde.evaluation.base import mean_and_std_error
from score_sde.evaluation.budget import ErrorBudget


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Likelihood:
    """Log-likelihoods of examples, in nats and in the data's own units.

    Attributes:
        logp: The log-likelihood of every example; of gray levels a lower bound of their log-probability.
        num_dims: The number of values of an example.
        num_evals: Evaluations of the network for every example.
        success: Whether the solver reached the prior.
        probe_std_error: Standard error of ``logp`` due to the trace estimator: 0 if the trace is exact, nan with one
            probe, whose error is in the budget.
        protocol: How it was measured, in words.
        measure_budget: Measures the budget.
    """

    logp: np.ndarray
    num_dims: int
    num_evals: np.ndarray
    success: np.ndarray
    probe_std_error: np.ndarray
    protocol: str
    measure_budget: Callable[[], ErrorBudget] = dataclasses.field(repr=False)

    @property
    def bits_per_dim(self) -> np.ndarray:
        """The negative log-likelihood of every example in bits per dimension."""
        return -self.logp / (self.num_dims * np.log(2.0))

    @property
    def mean(self) -> tuple[float, float]:
        """The mean over the examples that the solver has finished, and its standard error."""
        return mean_and_std_error(self.logp[self.success])

    @functools.cached_property
    def budget(self) -> ErrorBudget:
        """The error budget of the mean, in nats per example; measured when it is first asked for.

        The solver's and the truncation's errors are measured on the first ``config.likelihood.budget_examples``.
        """
        return self.measure_budget()
