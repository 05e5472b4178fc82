"""Steps and corrections agree with the recorded values of the original code, given its noise."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.parameterization import NoisePrediction, ScorePrediction, make_score_fn
from score_sde.sdes import VE, VP, SubVP
from score_sde.solvers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
)
from score_sde.typing import expand_like

T = jnp.float32(0.5)
REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the recorded values are not at hand")
ORIGINALS = {"vp": VP(), "subvp": SubVP(), "ve": VE()}


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("flow", [0, 1])
@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion"])
def test_one_step_agrees_with_the_original_code(name, solver, flow):
    """Steps of the original implementation, run unmodified, with score -x / (1 + t) and recorded noise."""
    sde = ORIGINALS[name]
    values, steps = np.load(REFERENCE / "a1_sde_values.npz"), np.load(REFERENCE / "a3_steps.npz")
    prefix = f"{name}/pred_{solver}_pf{flow}"
    if f"{prefix}/x" not in steps:
        steps = np.load(REFERENCE / "b6_steps_jax.npz")
    process = sde.reverse(lambda x, t: -x / expand_like(1.0 + t, x), noise_scale=1.0 - flow)
    member = {"euler_maruyama": EulerMaruyama(), "reverse_diffusion": ReverseDiffusion()}[solver]
    for row, t in enumerate(values["t"]):
        if solver == "reverse_diffusion" and t < 2e-3:
            continue  # the original's chain starts from sigma = 0 there; ours from sigma(0)
        # The original's table has N = 1000 entries i = int(999 t), and its chain steps one entry at a time.
        index = float(values["timestep_index"][row])
        on_table = solver == "reverse_diffusion" and name != "subvp"
        time = index / 999 if on_table else float(t)
        length = 1 / 999 if on_table and name == "ve" else 1 / 1000
        x = jnp.asarray(values["x"][row : row + 1])
        after = member.step(
            sampling.sample_keys(jax.random.key(0), 0, 1),
            process_at(process, float(t)),
            member.init(x),
            jnp.float32(time),
            jnp.float32(time - length),
        )
        np.testing.assert_allclose(
            after.x_mean[0], steps[f"{prefix}/x_mean"][row], rtol=2e-4, atol=2e-4 * float(jnp.abs(x).max())
        )


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_ancestral_steps_of_the_chains_agree_with_the_original_code(name):
    """At its own levels; the noise is compared through x - x_mean, which the original draws from the stored array."""
    chain = ORIGINALS[name].discretize(1000)
    values, steps = np.load(REFERENCE / "a1_sde_values.npz"), np.load(REFERENCE / "a3_steps.npz")
    noise, prefix = steps["noise"][0], f"{name}/pred_ancestral_sampling_pf0"
    for row, t in enumerate(values["t"]):
        index = int(values["timestep_index"][row])
        if name == "ve" and index == 0:
            continue  # below its lowest level the chain of the original goes on to the data
        here, below = (jnp.float32(i) for i in ((index + 1) / 1000, index / 1000))
        if name == "ve":
            here, below = jnp.float32(index / 999), jnp.float32((index - 1) / 999)
        process = process_at(chain.reverse(lambda x, t: -x / expand_like(1.0 + t, x)), float(t))
        solver, x = Ancestral(large=name == "vp"), jnp.asarray(values["x"][row : row + 1])
        after = solver.step(sampling.sample_keys(jax.random.key(0), 0, 1), process, solver.init(x), here, below)
        # The step of VE is a difference of levels 1 % apart: their rounding in float32 alone moves it by 2e-5.
        relative = 1e-5 if name == "vp" else 5e-5
        tolerance = relative * float(jnp.abs(x).max() + 1)
        np.testing.assert_allclose(after.x_mean[0], steps[f"{prefix}/x_mean"][row], rtol=relative, atol=tolerance)
        ours = jax.random.normal(sampling.sample_keys(jax.random.key(0), 0, 1)[0], x.shape[1:])
        std = (after.x - after.x_mean)[0] / ours
        np.testing.assert_allclose(
            std * noise[row], steps[f"{prefix}/x"][row] - steps[f"{prefix}/x_mean"][row], rtol=1e-3, atol=2 * tolerance
        )


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("kind", ["langevin", "ald"])
def test_one_correction_agrees_with_the_original_code(name, kind, monkeypatch):
    """With its noise. Its factor 1 - beta_i, which depends on the number of steps, goes into the snr here."""
    values, steps = np.load(REFERENCE / "a1_sde_values.npz"), np.load(REFERENCE / "a3_steps.npz")
    noise, prefix, sde = jnp.asarray(steps["noise"][0]), f"{name}/corr_{kind}_n1", ORIGINALS[name]
    monkeypatch.setattr("score_sde.solvers.correctors.sample_noise", lambda keys, x: noise)
    # The norms are means over the batch, whose rows are at different times: a process that knows all of them.
    times = jnp.asarray(values["t"], jnp.float32)
    process = sde.reverse(lambda x, _: -x / expand_like(1.0 + times, x))
    alpha = np.ones(11) if name == "ve" else 1.0 - np.linspace(0.1, 20, 1000)[values["timestep_index"]] / 1000
    x = jnp.asarray(values["x"])
    for row, t in enumerate(values["t"]):
        corrector = {"langevin": Langevin, "ald": AnnealedLangevin}[kind](snr=0.16 * float(np.sqrt(alpha[row])))
        after = corrector.step(
            sampling.sample_keys(jax.random.key(0), 0, 11), process, corrector.init(x), T, jnp.float32(t)
        )
        for ours, theirs in ((after.x_mean, "x_mean"), (after.x, "x")):
            expected = steps[f"{prefix}/{theirs}"][row]
            # Below t = 1e-3 the original's std has lost digits to 1 - exp(-B).
            tolerance = 1e-5 if t > 1e-3 or kind == "langevin" or name == "ve" else 2e-3
            np.testing.assert_allclose(
                ours[row], expected, rtol=tolerance, atol=tolerance * (1 + np.abs(expected).max())
            )


def process_at(process, t):
    """The same process with its score frozen at time t, where the original evaluates it."""
    return process.forward.reverse(
        lambda x, _: process.score_fn(x, jnp.full(x.shape[:1], t)), noise_scale=process.noise_scale
    )


def recorded_noise(monkeypatch, arrays):
    """The k-th draw of noise is the k-th array."""
    draws = iter(arrays)
    for module in ("correctors", "predictors"):
        monkeypatch.setattr(f"score_sde.solvers.{module}.sample_noise", lambda keys, x: next(draws))


def original_alpha(name, index):
    """The factor of its Langevin step for the VP SDE, ``1 - beta_i``."""
    return 1.0 if name == "ve" else 1.0 - np.linspace(0.1, 20, 1000)[index] / 1000


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("kind", ["langevin", "ald"])
def test_three_corrections_agree_with_the_original_code(name, kind, monkeypatch):
    """The norms are means over the batch, whose rows have their own times and factors: one row after the other."""
    values, steps = np.load(REFERENCE / "a1_sde_values.npz"), np.load(REFERENCE / "a3_steps.npz")
    sde, times = ORIGINALS[name], jnp.asarray(values["t"], jnp.float32)
    process = sde.reverse(lambda x, _: -x / expand_like(1.0 + times, x))
    keys, noise = sampling.sample_keys(jax.random.key(0), 0, 11), jnp.asarray(steps["noise"])
    alpha = np.asarray([original_alpha(name, i) for i in values["timestep_index"]])
    x = jnp.asarray(values["x"])
    for k in range(3):
        # Norms see the batch as the original left it after k corrections of every row by its own factor.
        after = []
        for row, t in enumerate(values["t"]):
            corrector = {"langevin": Langevin, "ald": AnnealedLangevin}[kind](snr=0.16 * float(np.sqrt(alpha[row])))
            recorded_noise(monkeypatch, [noise[k]])
            state = corrector.step(keys, process, corrector.init(x), T, jnp.float32(t))
            after.append((state.x[row], state.x_mean[row]))
        x, x_mean = (jnp.stack(part) for part in zip(*after, strict=True))
    expected = {part: steps[f"{name}/corr_{kind}_n3/{part}"] for part in ("x", "x_mean")}
    for row, t in enumerate(values["t"]):
        # Below t = 1e-3 the original's std has lost digits to 1 - exp(-B).
        tolerance = 2e-5 if t > 1e-3 or kind == "langevin" or name == "ve" else 4e-3
        for found, part in ((x, "x"), (x_mean, "x_mean")):
            truth = expected[part][row]
            np.testing.assert_allclose(found[row], truth, rtol=tolerance, atol=tolerance * (1 + np.abs(truth).max()))


class FixedModel:
    """The network of the recorded values, ``tanh(x / 2) (1 + 0.1 cos(0.05 l)) + 0.01 sin(0.3 l)``."""

    def __init__(self, label):
        self.label = label  # from the condition that a parameterization gives to the label that the original gives

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        value = expand_like(self.label(condition), x)
        return jnp.tanh(0.5 * x) * (1.0 + 0.1 * jnp.cos(0.05 * value)) + 0.01 * jnp.sin(0.3 * value)


def original_score(name, continuous):
    """The score function of the original's network, by this package's parameterizations where there is one."""
    sde = ORIGINALS[name]
    if name == "vp" and continuous:
        return make_score_fn(FixedModel(lambda c: c), NoisePrediction(), sde, {})
    if name == "ve" and continuous:
        parameterization = ScorePrediction(scale_by_sigma=False, condition_on="log_noise")
        return make_score_fn(FixedModel(jnp.exp), parameterization, sde, {})
    if name == "ve":
        options = {"scale_by_sigma": False, "condition_on": "descending_level", "num_scales": 1000}
        return make_score_fn(FixedModel(lambda c: c), ScorePrediction(**options), sde, {})
    # The discrete VP score of the original mixes the label 999 t with the standard deviation of level int(999 t).
    std = jnp.asarray(np.load(REFERENCE / "a1_sde_values.npz")["vp/table_sqrt_1m_alphas_cumprod"])
    network = FixedModel(lambda c: c)
    return lambda x, t: -network.apply({}, x, 999.0 * t) / expand_like(std[jnp.int32(999.0 * t)], x)


PAIRS = (("ancestral_sampling", "none"), ("euler_maruyama", "ald"), ("reverse_diffusion", "langevin"))


@pytest.mark.sweep(5)
@pytest.mark.parametrize(("predictor", "corrector"), PAIRS)
@pytest.mark.parametrize(("name", "continuous"), [*itertools.product(["vp", "ve"], [1, 0])])
@pytest.mark.parametrize("t", [1.0, 0.5, 0.0019])
def test_a_step_of_predictor_and_corrector_agrees_with_the_original_code(
    name, continuous, t, predictor, corrector, monkeypatch
):
    """It corrects first. These are all the combinations that were recorded; the sub-VP SDE has no corrector there."""
    values, steps = np.load(REFERENCE / "a1_sde_values.npz"), np.load(REFERENCE / "a3_steps.npz")
    prefix = f"{name}/pc_cont{continuous}_t{t}_{predictor}_{corrector}"
    x, score_fn, index = jnp.asarray(values["x"]), original_score(name, continuous), int(np.float32(t) * 999)
    recorded_noise(monkeypatch, list(jnp.asarray(steps["noise"])))
    process = ORIGINALS[name]
    here, there = t, t - 1 / 1000
    if predictor != "euler_maruyama":  # on the table of levels
        here, there = (index / 999, (index - 1) / 999) if name == "ve" else (index / 999, index / 999 - 1 / 1000)
    if predictor == "ancestral_sampling":
        process = process.discretize(1000)
        here, there = ((index + 1) / 1000, index / 1000) if name == "vp" else (here, there)
    frozen = process.reverse(lambda x, _: score_fn(x, jnp.full(x.shape[:1], t, jnp.float32)))
    snr = 0.16 * float(np.sqrt(original_alpha(name, index)))
    solver = {
        "ancestral_sampling": Ancestral(large=name == "vp"),
        "euler_maruyama": EulerMaruyama(),
        "reverse_diffusion": ReverseDiffusion(),
    }[predictor]
    if corrector != "none":
        member = {"ald": AnnealedLangevin, "langevin": Langevin}[corrector](snr=snr)
        solver = PredictorCorrector(predictor=solver, corrector=member, corrector_first=True)
    keys = sampling.sample_keys(jax.random.key(0), 0, len(x))
    after = solver.step(keys, frozen, solver.init(x), jnp.float32(here), jnp.float32(there))
    for found, part in ((after.x, "x"), (after.x_mean, "x_mean")):
        truth = steps[f"{prefix}/{part}"]
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5 * (1 + np.abs(truth).max()), err_msg=prefix)
