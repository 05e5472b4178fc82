"""A training that diverges is stopped before anything of it is saved."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

from score_sde import distributed
from score_sde.errors import UserError
from score_sde.evaluation.loss import LossEvaluator
from score_sde.modes.training import train
from score_sde.training import loop
from tests.training.test_preemption import SNAPSHOTS
from tests.training.test_resume import _experiment, _restored

KEPT = r"The checkpoint of step 10 is kept; lower config\.optim\.lr"


def _poisoned(tree):
    """A tree with one value of its last array of real numbers gone."""
    leaves, structure = jax.tree.flatten(tree)
    last = max(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating))
    leaves[last] = leaves[last].ravel().at[-1].set(jnp.inf).reshape(leaves[last].shape)
    return structure.unflatten(leaves)


@pytest.fixture
def poison(monkeypatch):
    """Makes a part of the state infinite after a step, whose loss is as good as ever."""

    def patch(part, at_step):
        def jit_step(*args, **kwargs):
            compiled = distributed.jit_step(*args, **kwargs)

            def step(state, batch):
                after, metrics = compiled(state, batch)
                if int(after.step) == at_step:
                    after = dataclasses.replace(after, **{part: _poisoned(getattr(after, part))})
                return after, metrics

            return step

        monkeypatch.setattr(loop, "jit_step", jit_step)

    return patch


@pytest.mark.sweep
@pytest.mark.parametrize("part", ["params", "ema_params", "opt_state"])
def test_a_state_that_is_not_finite_is_not_saved(part, poison, monkeypatch, tmp_path):
    monkeypatch.setattr(LossEvaluator, "__call__", lambda self, params: (1.0, 0.1))
    poison(part, 20)
    with pytest.raises(UserError, match=rf"After step 20 state\.{part}.* is not finite, and is not saved\. {KEPT}"):
        train(_experiment(), tmp_path)
    assert int(_restored(tmp_path).state.step) == 10


def test_an_average_that_is_not_finite_is_not_saved(poison, tmp_path):
    experiment = _experiment(**SNAPSHOTS)
    poison("opt_state", 15)
    with pytest.raises(UserError, match=rf"After step 15 0\.1.* is not finite, and is not saved\. {KEPT}"):
        train(experiment, tmp_path)
    assert not (tmp_path / "averages" / "15").exists()


def test_an_evaluation_that_is_not_finite_is_neither_logged_nor_saved(monkeypatch, tmp_path):
    evaluations = iter([(1.0, 0.1), (0.9, 0.1), (math.nan, math.nan)])
    monkeypatch.setattr(LossEvaluator, "__call__", lambda self, params: next(evaluations))
    with pytest.raises(UserError, match=r"The loss on held-out data became nan at step 30\. The checkpoint of step 20"):
        train(_experiment(), tmp_path)
    assert int(_restored(tmp_path).state.step) == 20
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20, 25]
