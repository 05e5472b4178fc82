"""What cannot be meant is refused where it is given, in words, and never computed with."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from score_sde import likelihood, objectives, sampling, solvers
from score_sde.conditioning import Inpaint
from score_sde.errors import UserError
from score_sde.likelihood import Quantization
from score_sde.models.normalization import ConditionalInstanceNorm2dPlus
from score_sde.sdes import VE, VP
from score_sde.solvers.adaptive_sde import solve_sde

KEY, SDE, X = jax.random.key(0), VP(), jnp.zeros((5, 2))
KEYS, TIMES = sampling.sample_keys(KEY, 0, 5), sampling.uniform_times(4)
UPWARDS, LATE = TIMES[::-1], 0.5 * TIMES


@pytest.fixture(autouse=True)
def annotations_unchecked():
    """As outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def score(x, t):
    return -x


def reverse(score_fn=score):
    return SDE.reverse(score_fn)


def metropolis(keys, x):
    return solvers.metropolis_langevin(keys, lambda x: -jnp.sum(x**2, axis=1), x, step_size=0.1, num_steps=1)


#: All that takes samples and a key for each.
OF_KEYS = {
    "integrate": lambda keys, x: sampling.integrate(keys, solvers.EulerMaruyama(), reverse(), x, TIMES),
    "without noise": lambda keys, x: sampling.integrate(keys, solvers.Heun(), reverse(), x, TIMES),
    "trajectory": lambda keys, x: sampling.trajectory(keys, solvers.Heun(), reverse(), x, TIMES),
    "solve_sde": lambda keys, x: solve_sde(keys, reverse(), x, t1=0.5),
    "langevin": lambda keys, x: solvers.langevin_monte_carlo(keys, lambda x: -x, x, step_size=0.1, num_steps=1),
    "metropolis": metropolis,
    "sample with density": lambda keys, x: likelihood.sample_with_log_density(keys, SDE, score, x, TIMES),
}


@pytest.mark.parametrize("name", OF_KEYS)
def test_every_sample_has_a_key_of_its_own(name):
    for keys in (KEYS[:1], KEYS[:4], sampling.sample_keys(KEY, 0, 6), KEY):
        with pytest.raises(UserError, match=r"expected one key for each of the 5"):
            OF_KEYS[name](keys, X)
        with pytest.raises(UserError, match=r"expected one key for each of the 5"):
            jax.eval_shape(OF_KEYS[name], keys, X)
    jax.eval_shape(OF_KEYS[name], KEYS, X)


@pytest.mark.parametrize("name", OF_KEYS)
@pytest.mark.parametrize("x", [X.astype(int), [[0.0, 0.0]] * 5, 0.0], ids=["whole", "list", "number"])
def test_samples_are_floating_point_numbers(name, x):
    with pytest.raises(UserError, match=r"The samples are of type .*; expected"):
        OF_KEYS[name](KEYS, x)


#: All that a score is given to.
OF_SCORES = {
    "integrate": lambda score: sampling.integrate(KEYS, solvers.EulerMaruyama(), reverse(score), X, TIMES),
    "marginals alone": lambda score: sampling.integrate(KEYS, solvers.UniPC(), reverse(score), X, TIMES),
    "solve_sde": lambda score: solve_sde(KEYS, reverse(score), X, t1=0.5),
    "langevin": lambda score: solvers.langevin_monte_carlo(
        KEYS, lambda x: score(x, None), X, step_size=0.1, num_steps=1
    ),
    "log_likelihood": lambda score: likelihood.log_likelihood(KEY, SDE, score, X),
    "on a grid": lambda score: likelihood.log_likelihood_on_grid(KEY, SDE, score, X, TIMES),
    "transport": lambda score: likelihood.transport(SDE, score, X, t0=0.5, t1=1.0),
    "nll_bound": lambda score: likelihood.nll_bound(KEY, SDE, score, X, num_times=2),
    "sliced": lambda score: likelihood.nll_bound(KEY, SDE, score, X, num_times=2, form="sliced"),
    "bound_draw": lambda score: likelihood.bound_draw(KEY, SDE, score, X),
    "decoder_term": lambda score: likelihood.decoder_term(KEY, SDE, score, X, 1e-3),
    "chain_bound": lambda score: likelihood.chain_bound(KEY, SDE, score, X, times=TIMES),
}
WRONG_SCORES = {
    "one column": lambda x, t: -x[:, :1],
    "one number a sample": lambda x, t: -x[:, 0],
    "one number": lambda x, t: jnp.sum(x),
    "an axis more": lambda x, t: x[None],
}


@pytest.mark.parametrize("name", OF_SCORES)
def test_a_score_that_would_be_broadcast_is_refused(name):
    for wrong in WRONG_SCORES.values():
        with pytest.raises(UserError, match=r"The score of a batch has shape .*; expected \(\d, 2\)"):
            jax.eval_shape(lambda wrong=wrong: OF_SCORES[name](wrong))
    jax.eval_shape(lambda: OF_SCORES[name](score))


def test_a_density_for_the_whole_batch_is_refused():
    with pytest.raises(UserError, match=r"log-density of a batch has shape \(\); expected \(5,\)"):
        solvers.metropolis_langevin(KEYS, lambda x: -jnp.sum(x**2), X, step_size=0.1, num_steps=1)


def grid(*times):
    times = jnp.array(times)
    return lambda: likelihood.log_likelihood_on_grid(KEY, SDE, score, X, times)


def between(**times):
    return lambda: likelihood.log_likelihood(KEY, SDE, score, X, **times)


def from_to(t0, t1):
    return lambda: likelihood.transport(SDE, score, X, t0=t0, t1=t1)


NAN = float("nan")
WRONG_TIMES = {
    **{f"t0 {t0!r}": between(t0=t0) for t0 in (0, 0.0, 1, -1.0, NAN, np.float32(2), jnp.array(0.0))},
    **{f"t1 {t1!r}": between(t1=t1) for t1 in (NAN, -1.0, 0, 1.5, jnp.array(2.0))},
    "t0 behind t1": between(t0=0.5, t1=0.1),
    "t0 at t1": between(t0=0.5, t1=0.5),
    "increasing": grid(1e-3, 0.5, 1.0),
    "repeated": grid(1.0, 0.5, 0.5),
    "not from the prior": grid(0.5, 0.25, 1e-3),
    "behind the prior": grid(2.0, 1.0, 0.5),
    "not numbers": grid(1.0, NAN, 0.5),
    "levels": lambda: likelihood.chain_bound(KEY, SDE, score, X, times=UPWARDS),
    "samples": lambda: likelihood.sample_with_log_density(KEYS, SDE, score, X, LATE),
    **{f"from {t0} to {t1}": from_to(t0, t1) for t0, t1 in ((-1.0, 1.0), (1.0, 2.0), (NAN, 1.0), (1.0, -1e-3))},
    **{
        f"{name} {t}": lambda call=call, t=t: call(t)
        for t in (-1.0, 0.0, 1.0, 2.0, NAN)
        for name, call in {
            "nll_bound": lambda t: likelihood.nll_bound(KEY, SDE, score, X, t_min=t, num_times=2),
            "bound_draw": lambda t: likelihood.bound_draw(KEY, SDE, score, X, t_min=t),
            "decoder_term": lambda t: likelihood.decoder_term(KEY, SDE, score, X, t),
            "solve_sde": lambda t: solve_sde(KEYS, reverse(), X, t1=t),
        }.items()
    },
}


@pytest.mark.parametrize("name", WRONG_TIMES)
def test_times_at_which_there_is_no_density_are_refused(name):
    for call in (WRONG_TIMES[name], lambda: jax.eval_shape(WRONG_TIMES[name])):  # numbers stay known under a trace
        with pytest.raises(UserError, match=r"expected (a time|times|1, the time|the data to enter|a positive one)"):
            call()


def test_a_gradient_is_no_process_and_is_not_refused():
    """With respect to the numbers of a solver and of a process, of which some would be refused as such."""
    slopes = jax.grad(lambda solver: -2.0 * solver.eta)(solvers.DDIM(eta=0.5))
    assert float(slopes.eta) == -2.0
    slopes = jax.grad(lambda sde: -3.0 * sde.beta_max + sde.beta_min)(SDE)
    assert (float(slopes.beta_min), float(slopes.beta_max)) == (1.0, -3.0)


def test_times_that_are_traced_pass():
    jax.eval_shape(lambda t: likelihood.log_likelihood(KEY, SDE, score, X, t0=t, t1=2.0 * t), 0.1)
    jax.eval_shape(lambda t: likelihood.nll_bound(KEY, SDE, score, X, t_min=t, num_times=2), 0.1)
    jax.eval_shape(lambda t: likelihood.log_likelihood_on_grid(KEY, SDE, score, X, t), TIMES)
    jax.eval_shape(lambda t: likelihood.transport(SDE, score, X, t0=t, t1=1.0), 0.1)


@pytest.mark.slow
def test_a_grid_may_start_anywhere_if_the_density_there_is_given():
    found = likelihood.log_likelihood_on_grid(
        KEY, SDE, score, X, sampling.log_snr_times(SDE, 20)[5:], num_probes=None, terminal_logp=SDE.prior_logp
    )
    np.testing.assert_allclose(found.logp, SDE.prior_logp(X), atol=2e-3)  # N(0, I) is that of all times


def integrate(**options):
    return sampling.integrate(KEYS, solvers.Heun(), reverse(), X, TIMES, **options)


def langevin(**options):
    return solvers.langevin_monte_carlo(KEYS, lambda x: -x, X, **{"step_size": 0.1, "num_steps": 1} | options)


def noise_scale(solver):
    return sampling.integrate(KEYS, solver, SDE.reverse(score, noise_scale="x"), X, TIMES)


def predicted(**options):
    return solvers.PredictorCorrector(predictor=solvers.EulerMaruyama(), corrector=solvers.Langevin(), **options)


LEVELS = jnp.array([[0, 3]])
FOUR, EIGHT_BIT = Quantization(num_grey_levels=4), Quantization(num_grey_levels=256)

#: Numbers that cannot be meant, by what is said of them.
REFUSED = {
    **{f"snr {snr}": lambda snr=snr: solvers.Langevin(snr=snr) for snr in (-1.0, NAN, "x")},
    "snr is -1": lambda: solvers.AnnealedLangevin(snr=-1.0),
    **{f"t0 is {t}": lambda t=t: objectives.UniformTimes(t0=t) for t in (-1.0, 1.0, NAN)},
    "t1 is 2.0": lambda: objectives.LowDiscrepancyTimes(t1=2.0),
    "t0 is 0.5 and t1 is 0.1": lambda: objectives.ImportanceTimes(sde=VP(), t0=0.5, t1=0.1),
    "num_levels is 1": lambda: objectives.LevelTimes(num_levels=1),
    **{f"churn {churn}": lambda churn=churn: solvers.EDMHeun(churn=churn) for churn in (-1.0, 500.0, NAN)},
    "churn_min is 2.0 and churn_max is 1.0": lambda: solvers.EDMHeun(churn_min=2.0, churn_max=1.0),
    "noise is -1.0": lambda: solvers.EDMHeun(noise=-1.0),
    "eta is -1.0": lambda: solvers.DDIM(eta=-1.0),
    **{f"order {order}": lambda order=order: solvers.UniPC(order=order) for order in (7, 0, 2.0, True)},
    **{f"order of {o}": lambda o=o: solvers.DPMSolverMultistep(order=o) for o in (4, 0, 2.0)},
    "num_corrections is -1": lambda: predicted(num_corrections=-1),
    **{f"num_levels {n}": lambda n=n: Quantization(num_grey_levels=n) for n in (0, 1, -4, 2.5, NAN, True)},
    "levels lie between -7 and 10": lambda: FOUR.dequantize(KEY, jnp.array([[10, -7]])),
    "levels are of type float32": lambda: FOUR.dequantize(KEY, jnp.array([[0.5, 1.0]])),
    "dim is 0": lambda: FOUR.bits_per_dim(jnp.zeros(1), 0),
    **{f"num_steps {n}": lambda n=n: integrate(num_steps=n) for n in (2.5, 0, NAN, True)},
    "num_steps is -1": lambda: langevin(num_steps=-1),
    "step_size is nan": lambda: langevin(step_size=NAN),
    **{f"max_steps {n}": lambda n=n: likelihood.log_likelihood(KEY, SDE, score, X, max_steps=n) for n in (0, -1, 2.5)},
    "max_steps is 0": lambda: solve_sde(KEYS, reverse(), X, t1=0.5, max_steps=0),
    "first is 4294967296": lambda: sampling.sample_keys(KEY, 2**32, 1),
    "last sample is 4294967296": lambda: sampling.sample_keys(KEY, 2**32 - 1, 2),
    "first is -1": lambda: sampling.sample_keys(KEY, -1, 2),
    "count is -1": lambda: sampling.sample_keys(KEY, 0, -1),
    "The key is an array of keys": lambda: sampling.sample_keys(KEYS, 0, 1),
    "rho is 0": lambda: sampling.edm_times(SDE, 4, rho=0.0),
    **{f"grid {n}": lambda n=n: sampling.uniform_times(n) for n in (-1, 0, 2.5)},
    **{f"t_end {t}": lambda t=t: sampling.log_snr_times(SDE, 4, t) for t in (-1.0, 1.0, NAN)},
    "n is 0": lambda: VE().discretize(0),
    "key of the probes": lambda: likelihood.log_likelihood(KEYS, SDE, score, X),
    "key of the bound": lambda: likelihood.nll_bound(KEYS, SDE, score, X, num_times=2),
    "cauchy": lambda: likelihood.log_likelihood(KEY, SDE, score, X, num_probes=None, probe_kind="cauchy"),
    "num_probes is 0": lambda: likelihood.nll_bound(KEY, SDE, score, X, num_probes=0),
    **{
        f"noise_scale of {solver}": lambda solver=solver: noise_scale(solver)
        for solver in (solvers.Heun(), solvers.DDIM(), solvers.EDMHeun(), solvers.EulerMaruyama())
    },
    **{f"mask {m}": lambda m=m: Inpaint(solver=solvers.Heun(), known=X, mask=X + m) for m in (0.5, 0.9, 255.0, NAN)},
    "whole known values": lambda: sampling.integrate(
        KEYS, Inpaint(solver=solvers.Heun(), known=X.astype(int), mask=X), reverse(), X, TIMES
    ),
    "known values": lambda: Inpaint(solver=solvers.Heun(), known=X + NAN, mask=X + 1.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_that_cannot_be_meant_are_refused(name):
    with pytest.raises(UserError, match=name if " is " in name else "expected|Unknown"):
        REFUSED[name]()


def test_traced_numbers_of_solvers_and_levels_pass():
    jax.eval_shape(lambda snr: solvers.Langevin(snr=snr), 0.1)
    jax.eval_shape(lambda churn: solvers.EDMHeun(churn=churn), 0.1)
    jax.eval_shape(lambda levels: FOUR.dequantize(KEY, levels), LEVELS)
    jax.eval_shape(lambda mask: Inpaint(solver=solvers.Heun(), known=X, mask=mask), X)
    jax.eval_shape(lambda first: sampling.sample_keys(KEY, first, 2), 3)


def test_a_mask_may_be_of_any_type():
    masks = [jnp.ones((5, 2), dtype) for dtype in (bool, int, jnp.uint8, float)]
    held = [Inpaint(solver=solvers.Heun(), known=X + 3.0, mask=mask).restore(X) for mask in masks]
    assert all((x == 3.0).all() for x in held)


def test_the_largest_index_of_a_sample_has_a_key():
    keys = sampling.sample_keys(KEY, 2**32 - 2, 2)
    assert keys[1] == jax.random.fold_in(KEY, np.uint32(2**32 - 1))


IMAGES = jax.random.randint(KEY, (2, 8, 8, 1), 0, 256)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (IMAGES / 255.0, "no noise.*scaled to 0 to 1"),
        (IMAGES / 256.0, "no noise.*scaled to 0 to 1"),
        (IMAGES / 127.5 - 1.0, "no noise.*scaled to -1 to 1"),
        (Quantization(num_grey_levels=256, centered=False).dequantize(KEY, IMAGES), "expected centered=False"),
    ],
)
def test_images_of_the_other_scale_are_refused(x, said):
    with pytest.raises(UserError, match=said):
        likelihood.bits_per_dim(KEY, SDE, score, x, quantization=EIGHT_BIT)


def test_bright_images_are_images():
    EIGHT_BIT.check(EIGHT_BIT.dequantize(KEY, jnp.full((1, 28, 28, 1), 250)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_data_of_half_precision_have_the_density_of_their_values(dtype):
    x = (X + 0.5).astype(dtype)
    found = likelihood.log_likelihood(KEY, SDE, score, x, num_probes=None, rtol=1e-3)
    np.testing.assert_allclose(found.logp, SDE.prior_logp(X + 0.5), atol=1e-2)


def test_a_noise_level_out_of_range_gives_no_numbers():
    norm, x = ConditionalInstanceNorm2dPlus(num_classes=3), jax.random.normal(KEY, (4, 2, 2, 6))
    y, _ = norm.init_with_output(KEY, x, jnp.array([-1, 0, 2, 3]))
    assert jnp.isfinite(y).all(axis=(1, 2, 3)).tolist() == [False, True, True, False]
