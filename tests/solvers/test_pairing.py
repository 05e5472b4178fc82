"""Every pair of a solver and a noise scale is either right or refused, whatever the process."""

import chex
import jax
import jax.numpy as jnp
import pytest

from score_sde import sampling, solvers
from score_sde.conditioning import Inpaint
from score_sde.errors import UserError
from score_sde.keys import sample_noise
from score_sde.parameterization import NoisePrediction
from score_sde.sdes import VE, VP
from score_sde.solvers import noise_scale_of
from score_sde.solvers.base import StatelessSolver, continuous
from score_sde.solvers.pairing import follows_drift

STD, STEPS, N = 0.5, 400, 4000  # data N(0, 0.25 I) in 4 dimensions
SDE = VP()
PROCESSES = {"sde": SDE, "chain": SDE.discretize(STEPS)}
KEYS = sampling.sample_keys(jax.random.key(0), 0, N)
SMALL = {
    "langevin": solvers.Langevin(snr=0.05),
    "annealed_langevin": solvers.AnnealedLangevin(snr=0.05),
}
ALONE = {**{name: make() for name, make in solvers.PREDICTORS.items()}, **SMALL, "ddim eta 1": solvers.DDIM(eta=1.0)}
CORRECTED = {
    f"{name} with {corrector}": solvers.PredictorCorrector(predictor=ALONE[name], corrector=SMALL[corrector])
    for name in ("heun", "ancestral", "euler_maruyama", "reverse_diffusion", "dpm_solver_2s", "ddim", "edm_heun")
    for corrector in SMALL
} | {
    "langevin at every level": solvers.PredictorCorrector(
        predictor=solvers.NoPredictor(), corrector=solvers.Langevin(snr=0.1), num_corrections=20
    )
}
CASES = [(name, process) for name in ALONE for process in PROCESSES] + [(name, "sde") for name in CORRECTED]


def spread(process, t):
    mean_coeff, std = process.marginal(t)
    return jnp.sqrt((STD * mean_coeff) ** 2 + std**2)


def score(process):
    return lambda x, t: -x / spread(process, t)[:, None] ** 2


def grid(process):
    return sampling.uniform_times(STEPS, 1e-3) if process is SDE else process.times[::-1]


class Network:
    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, key=None):
        t = condition / 999.0
        return -SDE.marginal(t).std[:, None] * score(SDE)(x, t)


def refusal(solver, process, noise_scale):
    """What is said where the pair is formed, by any of the three that form one."""
    said = set()
    reverse, x, times = process.reverse(score(process), noise_scale=noise_scale), jnp.zeros((N, 4)), grid(process)
    for form in (
        lambda: sampling.make_sampler(
            Network(), NoisePrediction(), process, solver, times=times, noise_scale=noise_scale
        ),
        lambda: jax.eval_shape(lambda: sampling.integrate(KEYS, solver, reverse, x, times)),
        lambda: jax.eval_shape(lambda: sampling.trajectory(KEYS, solver, reverse, x, times)),
    ):
        try:
            form()
            said.add(None)
        except UserError as error:
            said.add(str(error))
    return said


@pytest.mark.sweep(13)
@pytest.mark.parametrize(("name", "process"), CASES)
def test_a_pair_is_right_or_refused(name, process):
    solver, process = {**ALONE, **CORRECTED}[name], PROCESSES[process]
    start = spread(process, jnp.ones(())) * sampling.prior_samples(KEYS, SDE, (4,))
    times, exact = grid(process), float(spread(process, grid(process)[-1]))
    refused = {scale: refusal(solver, process, scale) for scale in (0.0, 0.5, 1.0)}
    assert all(len(said) == 1 for said in refused.values())  # the three agree
    accepted = [scale for scale, said in refused.items() if said == {None}]
    assert all("noise" in said or "drift" in said or "time" in said for (said,) in refused.values() if said)
    if name in ("none", *SMALL) or (process is not SDE and follows_drift(solver)):
        assert not accepted  # they go nowhere, or follow a drift that is not there
        return
    assert noise_scale_of(solver) in accepted

    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def drawn(noise_scale):
        reverse = process.reverse(score(process), noise_scale=noise_scale)
        return sampling.integrate(KEYS, solver, reverse, start, times).x.std()

    for scale in accepted:  # of one program; a step too many or too few without its noise would be off by far more
        assert abs(float(drawn(scale)) / exact - 1.0) < 0.06, scale


class OwnEuler(StatelessSolver):
    """A user's solver, that says nothing of noise and adds none."""

    num_evals = 1

    def step(self, keys, process, state, t, s):
        x = state.x + (s - t) * continuous(process).drift(state.x, t)
        return state.moved(x, x)


class OwnEulerMaruyama(OwnEuler):
    """The same with the noise of the process."""

    def step(self, keys, process, state, t, s):
        x = super().step(keys, process, state, t, s).x
        noise = continuous(process).diffusion(t) * jnp.sqrt(t - s) * sample_noise(keys, x)
        return state.moved(x + noise, x)


UNTOLD = {
    "own euler": OwnEuler(),
    "own euler-maruyama": OwnEulerMaruyama(),
    "inpainting by heun": Inpaint(solver=solvers.Heun(), known=jnp.zeros((N, 4)), mask=jnp.zeros((N, 4))),
    "heun": solvers.Heun(),
    "reverse diffusion": solvers.ReverseDiffusion(),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", UNTOLD)
def test_without_a_noise_scale_the_samples_are_right(name):
    """By both doors: a sampler, and the loop over a reversal that was not told how noisy it is."""
    times, key = grid(SDE), jax.random.key(0)
    sampler = sampling.make_sampler(Network(), NoisePrediction(), SDE, UNTOLD[name], times=times, denoising="none")
    x = sampler({}, key, (N, 4)).x
    assert abs(float(x.std()) / float(spread(SDE, times[-1])) - 1.0) < 0.03
    start, reverse = sampling.prior_samples(KEYS, SDE, (4,)), SDE.reverse(score(SDE))
    chex.assert_trees_all_close(sampling.integrate(KEYS, UNTOLD[name], reverse, start, times).x, x, atol=1e-3)


def test_a_noise_scale_that_was_asked_for_is_no_choice_of_the_solver():
    """Read directly, a reversal without a noise scale is the reverse SDE."""
    assert SDE.reverse(score(SDE)).noise_scale == 1.0
    start, times = sampling.prior_samples(KEYS[:2], SDE, (4,)), grid(SDE)
    with pytest.raises(UserError, match=r"noise_scale is 1\.0, and Heun adds no noise"):
        sampling.integrate(KEYS[:2], solvers.Heun(), SDE.reverse(score(SDE), noise_scale=1.0), start, times)


def test_what_is_inside_a_solver_says_what_it_follows():
    with pytest.raises(UserError, match="Inpaint of Heun adds no noise"):
        noise_scale_of(UNTOLD["inpainting by heun"], 1.0)


@pytest.mark.parametrize("predictor", [solvers.UniPC(), solvers.DPMSolverMultistep()], ids=["unipc", "dpm"])
def test_a_corrector_after_a_multistep_solver_is_refused(predictor):
    """UniPC starts each step where it was before the correction, so that its noise would be lost."""
    with pytest.raises(UserError, match="from its own past"):
        solvers.PredictorCorrector(predictor=predictor, corrector=solvers.Langevin())


def test_steps_that_are_too_long_for_the_chain_are_refused():
    """Of the VP SDE, 20 uniform steps have a variance of at most beta(1) / 20 = 1, fewer have more."""
    reverse, x = SDE.reverse(score(SDE)), jnp.ones((2, 4))
    for n, good in ((19, False), (21, True)):
        times, solver = sampling.uniform_times(n), solvers.ReverseDiffusion()
        both = solvers.PredictorCorrector(predictor=solver, corrector=solvers.Langevin())
        for each in (solver, both):
            if good:
                assert bool(jnp.isfinite(sampling.integrate(KEYS[:2], each, reverse, x, times).x).all())
                continue
            with pytest.raises(UserError, match=r"from t = 1 to 0.94.* is too long"):
                jax.jit(lambda x, each=each, times=times: sampling.integrate(KEYS[:2], each, reverse, x, times).x)(x)


def test_noise_for_which_a_step_has_no_room_is_refused():
    for eta in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="expected 0"):
            solvers.DDIM(eta=eta)


def test_a_word_that_no_solver_says_is_refused():
    class Misspelt(OwnEuler):
        follows = "flows"

    with pytest.raises(UserError, match="Did you mean 'flow'"):
        noise_scale_of(Misspelt())


REPEATED = jnp.asarray([1.0, 0.5, 0.5, 0.1])
NO_GRIDS = {
    "reversed": (sampling.uniform_times(5)[::-1], None, "Times 0 and 1 of the grid are 0.001 and 0.2008"),
    "repeated": (REPEATED, None, "Times 1 and 2 of the grid are 0.5 and 0.5"),
    "to the data": (sampling.uniform_times(5, 0.0), None, "is 0, where a VP process has no noise"),
    "no number": (REPEATED.at[1].set(jnp.nan), None, "Time 1 of the grid is nan"),
    "beyond the prior": (2.0 * sampling.uniform_times(5), None, "Time 0 of the grid is 2"),
    "below the data": (jnp.linspace(1.0, -0.1, 6), None, "Time 5 of the grid is -0.1"),
    "one time": (REPEATED[:1], None, "number of times in the grid is 1"),
    "no times": (REPEATED[:0], None, "number of times in the grid is 0"),
    "too many steps": (sampling.uniform_times(5), 6, "num_steps is 6, and the grid has 5 steps; expected 1 to 5"),
    "no steps": (sampling.uniform_times(5), 0, "num_steps is 0, and the grid has 5 steps; expected 1 to 5"),
    "fewer steps than none": (sampling.uniform_times(5), -3, "num_steps is -3, and the grid has 5 steps; expected 1"),
}


@pytest.mark.parametrize("name", NO_GRIDS)
def test_times_that_are_no_grid_are_refused(name):
    times, num_steps, said = NO_GRIDS[name]
    solver, reverse = solvers.DPMSolverMultistep(), SDE.reverse(score(SDE))
    forms = [
        lambda: sampling.integrate(KEYS[:2], solver, reverse, jnp.ones((2, 4)), times, num_steps=num_steps),
        lambda: sampling.make_sampler(
            Network(), NoisePrediction(), SDE, solver, times=times, num_steps=num_steps, noise_scale=0.0
        ),
    ]
    if num_steps is None:
        forms.append(lambda: sampling.trajectory(KEYS[:2], solver, reverse, jnp.ones((2, 4)), times))
    for form in forms:
        with pytest.raises(UserError, match=said):
            form()


def test_a_grid_may_be_padded_and_end_where_a_process_still_has_noise():
    """Behind its steps a grid may hold anything; VE and its chain have noise at time 0."""
    x, padded = jnp.ones((2, 4)), jnp.pad(sampling.uniform_times(5), (0, 3), mode="edge")
    alone = sampling.integrate(KEYS[:2], solvers.Heun(), SDE.reverse(score(SDE)), x, sampling.uniform_times(5)).x
    for behind in (padded, padded.at[6:].set(jnp.nan)):
        found = sampling.integrate(KEYS[:2], solvers.Heun(), SDE.reverse(score(SDE)), x, behind, num_steps=5).x
        chex.assert_trees_all_close(found, alone, rtol=1e-6)
    for process in (VE(), VE().discretize(20)):
        times = sampling.uniform_times(19, 0.0)
        found = sampling.integrate(KEYS[:2], solvers.DDIM(), process.reverse(score(process)), x, times).x
        assert bool(jnp.isfinite(found).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("solver", [solvers.EulerMaruyama(), solvers.DDIM(), OwnEuler()], ids=["em", "ddim", "own"])
def test_a_noise_scale_that_is_none_is_refused(solver, value):
    with pytest.raises(UserError, match=f"noise_scale is {value}; expected 0"):
        noise_scale_of(solver, value)


def test_a_misspelt_way_of_denoising_is_refused():
    with pytest.raises(UserError, match=r"Did you mean 'tweedie'\?"):
        sampling.make_sampler.__wrapped__(
            Network(), NoisePrediction(), SDE, solvers.Heun(), times=grid(SDE), denoising="tweedy"
        )
