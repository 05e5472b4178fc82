"""The average velocity of the flow between two times, of networks that are told both."""

import dataclasses

from jaxtyping import Array

from score_sde.arguments import of_examples, rows
from score_sde.labels import unconditioned
from score_sde.parameterization import Parameterization, make_score_fn
from score_sde.processes import Process
from score_sde.typing import Batch, Labels, Network, Params, PRNGKey, ScoreFn, Times


@dataclasses.dataclass(frozen=True, eq=False)
class AverageVelocity:
    """The average velocity of a network, and as a function of ``(x, t)`` the score that belongs to its velocity."""

    network: Network
    parameterization: Parameterization
    process: Process
    params: Params
    label: Labels | None
    key: PRNGKey | None
    score: ScoreFn  # of both times alike

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        """The score."""
        return self.score(x, t)

    def average(self, x: Batch, t: Times, s: Times) -> Batch:
        """``(x_t - x_s) / (t - s)`` along the flow through ``x_t = x``, at the times of every example.

        The network is told the noise at ``t`` and ``span = t - s``, and its output is the velocity. The span is not
        stretched as the times of a score network are: its embedding is differentiated by time.
        """
        given = {} if self.label is None else {"label": self.label}
        inputs = self.parameterization.inputs(self.process, x, t)
        return self.network.apply(self.params, *inputs, key=self.key, **given, **{"span": t - s})

    def of_examples(self, indices: Array) -> "AverageVelocity":
        """The same for some examples of a batch."""
        label = None if self.label is None else rows(self.label, indices)
        return dataclasses.replace(self, label=label, score=of_examples(self.score, indices))


def make_average_fn(
    network: Network,
    parameterization: Parameterization,
    process: Process,
    params: Params,
    *,
    label: Labels | None = None,
    key: PRNGKey | None = None,
) -> AverageVelocity:
    """The average velocity of a network; a key switches dropout on, labels condition on classes.

    Labels may also come with the parameters, as :class:`score_sde.labels.Conditioned`.
    """
    params, known = unconditioned(params)
    label = known if label is None else label
    score = make_score_fn(network, parameterization, process, params, label=label, key=key)
    return AverageVelocity(network, parameterization, process, params, label, key, score)
