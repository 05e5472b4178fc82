"""Predictor-corrector: the composition of two solvers is a solver."""

from collections.abc import Iterator

import jax
from jaxtyping import Array

from score_sde.arguments import Checked, not_whole
from score_sde.fields import DEFAULTS
from score_sde.keys import fold_in
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import Solver, SolverState
from score_sde.solvers.pairing import Follows, follows_of
from score_sde.typing import Batch, SampleKeys, Scalar, component, static


@component
class PredictorCorrector(Checked):
    """One predictor step from ``t`` to ``s``, then ``num_corrections`` corrector steps at ``s``.

    This is algorithm 1 of Song et al. 2021; their code corrects before it predicts, as with ``corrector_first``.
    Without corrections the solver is its predictor.
    """

    predictor: Solver
    corrector: Solver
    num_corrections: int = static(default=DEFAULTS.sampling.num_corrections)
    corrector_first: bool = static(default=DEFAULTS.sampling.corrector_first)

    def problems(self) -> Iterator[str]:
        """Sentences about an invalid number of corrections, and predictors that would ignore or be misled by them."""
        yield from not_whole("num_corrections", self.num_corrections, 0)
        if self.num_corrections and getattr(self.predictor, "keeps_past", False):
            yield (
                f"{type(self.predictor).__name__} goes on from its own past, and a corrector would move the sample "
                "away from it; expected no corrections, or a predictor without a past such as DPMSolverSinglestep."
            )

    @property
    def follows(self) -> Follows | None:
        """The predictor's process; if the predictor does not move the sample, the corrections alone do."""
        predictor = follows_of(self.predictor)
        return "own" if predictor == "still" and self.num_corrections else predictor

    @property
    def num_evals(self) -> int:
        """Evaluations of the predictor and of all corrections."""
        return self.predictor.num_evals + self.num_corrections * self.corrector.num_evals

    def init(self, x: Batch) -> SolverState:
        """The state of the predictor."""
        return self.predictor.init(x)

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One predictor step and its corrections."""
        if self.num_corrections == 0:
            return self.predictor.step(keys, process, state, t, s)
        if self.corrector_first:
            state = self._correct(keys, process, state, t)
            return self.predictor.step(fold_in(keys, self.num_corrections), process, state, t, s)
        state = self.predictor.step(fold_in(keys, self.num_corrections), process, state, t, s)
        return self._correct(keys, process, state, s)

    def _correct(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar) -> SolverState:
        def body(index: Array, state: SolverState) -> SolverState:
            return self.corrector.step(fold_in(keys, index), process, state, t, t)

        return jax.lax.fori_loop(0, self.num_corrections, body, state)
