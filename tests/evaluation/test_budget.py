"""The error bar of a likelihood is honest, an interrupted measurement goes on, and failures are not averaged in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from score_sde.cli import load_config
from score_sde.data import SourceInfo
from score_sde.data.base import ArraySource
from score_sde.distributed import AXES
from score_sde.errors import UserError
from score_sde.evaluation.budget import Difference, ErrorBudget, error_budget
from score_sde.evaluation.conformance import GAUSSIAN
from score_sde.evaluation.likelihood import (
    BinNoise,
    DatasetLikelihood,
    dataset_likelihood,
    flow_draw,
    identity_of,
)
from score_sde.evaluation.partial import Partial, discard
from score_sde.experiment import Experiment
from score_sde.likelihood import prior_divergence
from score_sde.modes.likelihood import _add_mean
from score_sde.modes.workdir import check_limit
from score_sde.sdes import VE, VP, SubVP
from tests.analytic import Gaussian

AR1 = Gaussian(np.zeros(16), GAUSSIAN.basis, GAUSSIAN.variances)
ENTROPY = 0.5 * float(np.sum(np.log(2 * np.pi * np.e * AR1.eigenvalues)))


class ExactNetwork:
    """The noise of the correlated Gaussian: what a perfectly trained network would predict."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        t = condition / 999.0
        return -VP().marginal(t).std[:, None] * AR1.score(VP())(x, t)


def make_experiment(*overrides, count=64):
    base = ["likelihood.batch_size=64", "likelihood.num_steps=24", "data.name=toy:moons", "model.name=mlp"]
    config = load_config(None, [f"--config.{o}" for o in (*base, *overrides)])
    return dataclasses.replace(Experiment.from_config(config, (16,), None), network=ExactNetwork())


def source_of(x):
    return ArraySource(SourceInfo("gaussian", (16,), None, None), np.asarray(x, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True], ids=["fresh probes", "one frozen probe"])
def test_the_interval_covers_the_truth_as_often_as_it_says(frozen):
    """200 test sets of 64 draws from a known density: the 95 % interval holds its entropy in 90 to 99 % of them."""
    experiment = make_experiment("likelihood.num_steps=40", f"likelihood.fresh_probes={not frozen}")
    draw = flow_draw(experiment, BinNoise())
    x = jnp.asarray(AR1.sample(200 * 64, seed=3), jnp.float32)
    nats = np.stack([draw({}, {}, jax.random.key(i), x[64 * i : 64 * (i + 1)]).logp for i in range(200)])
    # The solver's own error, measured once, is common to all of them.
    ones = np.ones(64, bool)
    whole = DatasetLikelihood(nats[0], nats[0], np.full(64, 41), ones, np.full(64, np.nan), 0.0)
    budget = error_budget(experiment, {}, source_of(x[:64]), whole, noise=BinNoise())
    covered = []
    for values in nats:
        images = values.std(ddof=1) / 8.0
        low, high = budget._replace(images=images).interval(-float(values.mean()))
        covered.append(low < ENTROPY < high)
    assert 0.90 <= np.mean(covered) <= 0.99, (np.mean(covered), budget, nats.mean() + ENTROPY)


@pytest.mark.slow
def test_the_share_of_the_probes_is_what_they_do():
    """On fixed data the means of repeated measurements spread by the stated error, for one probe and for several."""
    for count in (1, 3):
        experiment = make_experiment(f"likelihood.num_probes={count}")
        source = source_of(AR1.sample(64, seed=5))
        result = dataset_likelihood(experiment, {}, source)
        stated = error_budget(experiment, {}, source, result, noise=BinNoise()).probes
        draw = flow_draw(experiment, BinNoise())
        x = jnp.asarray(source.gather(np.arange(64)))
        means = [float(draw({}, {}, jax.random.key(i), x).logp.mean()) for i in range(200)]
        assert 0.8 < np.std(means) / stated < 1.25


@pytest.mark.slow
def test_the_solver_term_is_the_error_of_the_solver():
    """Against a solution without visible error, at a number of steps where it is."""
    source = source_of(AR1.sample(64, seed=6))
    coarse, fine = (make_experiment(f"likelihood.num_steps={n}", "likelihood.num_probes=0") for n in (18, 288))
    coarse_result, fine_result = (dataset_likelihood(e, {}, source) for e in (coarse, fine))
    budget = error_budget(coarse, {}, source, coarse_result, noise=BinNoise())
    error = float(np.mean(coarse_result.nats - fine_result.nats))
    assert abs(error) > 0.02
    np.testing.assert_allclose(budget.solver.mean, error, rtol=0.1)
    assert budget.probes == 0.0


@pytest.mark.parametrize("sde", [VP(beta_max=3.0), SubVP(beta_max=3.0), VE(sigma_max=2.0)])
def test_the_prior_term_is_the_divergence_from_the_prior(sde):
    """By Monte Carlo: the mean of log p(x_1 | x) - log prior(x_1)."""
    x = jnp.asarray(AR1.sample(2, seed=1), jnp.float32)
    m, s = (float(c) for c in sde.marginal(jnp.ones(())))
    z = jax.random.normal(jax.random.key(0), (20_000, 2, 16))
    ends = (m * x[None] + s * z).reshape(-1, 16)
    density = (-0.5 * jnp.sum(z**2, axis=2) - 8.0 * jnp.log(2 * jnp.pi * s**2)).reshape(-1)
    gaps = np.asarray(density - sde.prior_logp(ends)).reshape(-1, 2)
    error = gaps.std(axis=0) / np.sqrt(len(gaps))
    np.testing.assert_array_less(np.abs(prior_divergence(sde, jnp.ones(()), x) - gaps.mean(axis=0)), 4 * error + 1e-3)


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on_where_it_was(tmp_path):
    """The same numbers as without the interruption, and the first batches not measured again."""
    experiment = make_experiment("likelihood.batch_size=10")
    source, partial = source_of(AR1.sample(45, seed=2)), tmp_path / "likelihood.partial"
    whole = dataset_likelihood(experiment, {}, source)
    done = []

    def interrupt(n):
        done.append(n)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset_likelihood(experiment, {}, source, kept=Partial(partial, "a", interrupt))
    rows = [np.array(column) for column in Partial(partial, "a").columns()]
    discard(partial)
    marked = Partial(partial, "a")
    for first in range(0, 30, 10):  # evaluations, so as to know the rows again
        nats, num_evals, success, error = (column[first : first + 10] for column in rows)
        marked.add([nats, num_evals + 1000, success, error], 1.0)
    result = dataset_likelihood(experiment, {}, source, kept=Partial(partial, "a"))
    np.testing.assert_array_equal(result.nats, whole.nats)
    np.testing.assert_array_equal(result.num_evals - whole.num_evals, [1000.0] * 30 + [0.0] * 15)
    other = dataset_likelihood(experiment, {}, source, kept=Partial(partial, "another measurement"))
    np.testing.assert_array_equal(other.nats, whole.nats)
    partial.write_bytes(b"cut off")
    assert len(dataset_likelihood(experiment, {}, source, kept=Partial(partial)).nats) == 45


def test_an_interrupted_measurement_goes_on_with_other_devices_if_its_batches_stay():
    """Random numbers are those of a batch: three devices round ten examples up to twelve, two do not."""
    experiment, source = make_experiment("likelihood.batch_size=10"), source_of(AR1.sample(12, seed=2))

    def identity(data, fsdp):
        devices = np.array([jax.devices()[0]] * (data * fsdp)).reshape(data, fsdp)
        return identity_of(dataclasses.replace(experiment, mesh=Mesh(devices, AXES)), {}, BinNoise(), source)

    assert identity(1, 1) == identity(2, 1) == identity(1, 5) != identity(3, 1)
    assert identity_of(experiment, {}, BinNoise(), source) != identity_of(
        experiment, {"a": jnp.ones(1)}, BinNoise(), source
    )


def test_a_measurement_is_known_by_model_noise_and_data_and_not_by_where_these_lie():
    experiment, x = make_experiment(), AR1.sample(12, seed=2)
    whole, params = source_of(x), {"a": jnp.ones(1)}
    moved = make_experiment("data.name=toy:moons", "data.data_dir=/elsewhere", "data.workers=2", "optim.lr=0.5")
    same = identity_of(experiment, params, BinNoise(), whole)
    assert identity_of(moved, params, BinNoise(), source_of(x.copy())) == same
    others = [
        identity_of(experiment, {"a": jnp.zeros(1)}, BinNoise(), whole),
        identity_of(experiment, params, BinNoise(params={"b": jnp.ones(1)}), whole),
        identity_of(experiment, params, BinNoise(name="variational (step 3)"), whole),
        identity_of(experiment, params, BinNoise(), source_of(x + 1e-3)),
        identity_of(make_experiment("likelihood.t_min=1e-3"), params, BinNoise(), whole),
    ]
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.slow
def test_weighing_draws_by_importance_bounds_closer_than_their_mean():
    """And with one draw both are the same. The data are continuous, so that draws differ by their probes alone."""
    source = source_of(AR1.sample(32, seed=4))
    one, mean, weighted = (
        dataset_likelihood(make_experiment(*options), {}, source)
        for options in (
            ("likelihood.importance_weighted=True",),
            ("likelihood.num_dequantizations=4",),
            ("likelihood.num_dequantizations=4", "likelihood.importance_weighted=True"),
        )
    )
    assert (weighted.nats >= mean.nats - 1e-4).all() and (weighted.nats > mean.nats + 1e-3).any()
    np.testing.assert_array_equal(one.nats, dataset_likelihood(make_experiment(), {}, source).nats)


def test_failed_solves_are_counted_and_not_averaged_in():
    experiment = make_experiment("likelihood.num_steps=0")
    nats = np.array([-1.0, np.nan, -3.0])
    success = np.array([True, False, True])
    result = DatasetLikelihood(np.full(3, np.nan), nats, np.full(3, 7.0), success, np.zeros(3), 1.0)
    report = {}
    _add_mean(report, experiment, result)
    assert report["nats_per_example"] == -2.0
    assert (report["num_examples"], report["num_failed"]) == (2, 1)
    with pytest.raises(UserError, match="failed on all 3 examples"):
        _add_mean({}, experiment, result._replace(success=np.zeros(3, bool)))


def test_networks_that_know_levels_only_are_refused():
    config = load_config(None, ["--config.parameterization.condition_on=descending_level", "--config.sde.name=ve"])
    with pytest.raises(UserError, match="knows no time between two"):
        check_limit(config)


def test_the_interval_holds_images_and_solver():
    budget = ErrorBudget(0.05, 0.0, Difference(0.1, 0.0), Difference(9.0, 9.0), 9.0, 1)
    assert budget.interval(2.0) == pytest.approx((1.802, 2.198))
