"""Guidance between Gaussians, where its flow is known; Bayes' rule; and the scales at which it is off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.conditioning import autoguidance, classifier_free, classifier_guidance, halves
from score_sde.errors import UserError
from score_sde.likelihood import transport
from score_sde.sdes import VP
from score_sde.solvers import Ancestral, Heun
from tests.analytic import SDES

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
MEANS, VARIANCES = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.25])  # without the condition, and given it


def labeled_score(sde):
    """Of the class 0, everything, and the class 1."""

    def score(x, t, labels):
        m, s = sde.marginal(t)
        return ((m * MEANS[labels])[:, None] - x) / (m**2 * VARIANCES[labels] + s**2)[:, None]

    return score


def two_scores(sde):
    labeled = labeled_score(sde)
    return tuple(lambda x, t, label=label: labeled(x, t, jnp.full(t.shape, label)) for label in (1, 0))


@pytest.mark.sweep
@each_sde
def test_the_flow_has_the_geometric_mean_of_the_variances(sde):
    """By an adaptive solve of examples with scales of their own: a pair of points is moved apart by the std."""
    scales = jnp.repeat(jnp.array([0.0, 1.0, 2.0, 4.0]), 2)
    score = classifier_free(*halves(labeled_score(sde), jnp.ones(8, int), null=0), scales)
    x = jnp.tile(jnp.array([[0.3], [1.3]]), (4, 1))
    moved = jax.jit(lambda x: transport(sde, score, x, t0=1.0, t1=1e-3, rtol=1e-6, atol=1e-6).y)(x)
    m, s = (np.asarray(c)[:, None] for c in sde.marginal(jnp.array([1e-3, 1.0])))
    end, begin = m**2 * np.asarray(VARIANCES) + s**2
    free, given = end / begin
    w = np.asarray(scales[::2])
    np.testing.assert_allclose((moved[1::2] - moved[::2])[:, 0] ** 2, given**w * free ** (1.0 - w), rtol=2e-3)


def test_the_reverse_sde_has_a_law_of_its_own_which_is_neither_the_flow_s_nor_the_tilted_one():
    """Ancestral steps are affine, and their two moments follow a recursion."""
    sde, w, n = VP(), 2.0, 20_000
    times, keys = sampling.log_snr_times(sde, 100, 1e-2), sampling.sample_keys(jax.random.key(0), 0, n)
    score = classifier_free(*two_scores(sde), w)
    run = jax.jit(lambda x: sampling.integrate(keys, Ancestral(), sde.reverse(score), x, times).x)
    x = np.asarray(run(sampling.prior_samples(keys, sde, (1,))))
    m, s = (np.asarray(c, np.float64) for c in sde.marginal(times))
    variances = m[:, None] ** 2 * np.asarray(VARIANCES) + s[:, None] ** 2
    slope = -w / variances[:, 1] - (1.0 - w) / variances[:, 0]
    offset = w * m * float(MEANS[1]) / variances[:, 1]
    mean, variance = 0.0, 1.0
    for i in range(len(times) - 1):
        a = m[i] / m[i + 1]
        noise = s[i] ** 2 - (a * s[i + 1]) ** 2
        mean, variance = (
            (mean + noise * (slope[i] * mean + offset[i])) / a,
            ((1.0 + noise * slope[i]) / a) ** 2 * variance,
        )
        variance += noise * (s[i + 1] / s[i]) ** 2
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs(x.var() - variance) < 5 * variance * np.sqrt(2 / n)
    flow = variances[-1, 1] ** w * variances[-1, 0] ** (1.0 - w)
    assert flow < 0.85 * variance and variance < 0.85 / -slope[-1]  # 1 / (w / v_c + (1 - w) / v_u), the tilted one


@pytest.mark.sweep
@each_sde
def test_an_exact_classifier_makes_the_conditional_score(sde):
    """p(1 | x, t) of two equally likely classes; the score of both and its gradient are Bayes' rule."""

    def log_densities(x, t):
        m, s = sde.marginal(t)
        variances = m[:, None] ** 2 * VARIANCES[None] + s[:, None] ** 2
        return -0.5 * ((x - m[:, None] * MEANS[None]) ** 2 / variances + jnp.log(variances))

    def log_mixture(x, t):
        return jax.scipy.special.logsumexp(log_densities(x, t), axis=1)

    def score(x, t):
        return jax.grad(lambda x: jnp.sum(log_mixture(x, t)))(x)

    x, t = jnp.linspace(-2.0, 2.0, 9)[:, None], jnp.linspace(0.05, 1.0, 9)
    given, _ = two_scores(sde)
    guided = classifier_guidance(score, lambda x, t: log_densities(x, t)[:, 1] - log_mixture(x, t), 1.0)
    np.testing.assert_allclose(guided(x, t), given(x, t), rtol=1e-4, atol=1e-4)
    assert classifier_guidance(score, lambda x, t: x[:, 0], 0.0) is score


KEYS = sampling.sample_keys(jax.random.key(0), 0, 4)
OFF = {
    "scale 1": ({"scale": 1.0}, "given"),
    "scale 1, rescaled": ({"scale": 1.0, "rescale": 0.7}, "given"),
    "scale 0": ({"scale": 0.0}, "free"),
    "an empty interval": ({"scale": 3.0, "interval": (0.5, 0.5)}, "given"),
    "an interval that is never met": ({"scale": 3.0, "interval": (1e6, 1e7), "process": VP()}, "given"),
}


@pytest.mark.parametrize("beside", [None, 2.5], ids=["all", "some"])
@pytest.mark.parametrize("name", OFF)
def test_where_guidance_is_off_the_run_is_the_conditional_or_the_unconditional_one_bit_for_bit(name, beside):
    """For all examples, or for every other one beside guided ones."""
    arguments, which = OFF[name]
    given, free = halves(labeled_score(VP()), jnp.ones(4, int), null=0)
    x, times = sampling.prior_samples(KEYS, VP(), (3,)), sampling.uniform_times(5, 1e-2)
    if beside is not None:
        arguments = arguments | {"scale": jnp.array([arguments["scale"], beside] * 2)}

    def run(score):
        with jax.disable_jit():
            return sampling.integrate(KEYS, Ancestral(), VP().reverse(score), x, times).x[::2]

    found = run(classifier_free(given, free, **arguments))
    np.testing.assert_array_equal(found, run({"given": given, "free": free}[which]))


def test_an_interval_guides_at_its_noise_levels_alone():
    sde, ratios = VP(), jnp.array([0.1, 0.5, 0.7, 2.0, 3.0])
    given, free = two_scores(sde)
    t, x = sde.inverse_log_snr(-2.0 * jnp.log(ratios)), jnp.full((5, 1), 0.4)
    score = classifier_free(given, free, 2.5, (0.3, 2.5), process=sde)(x, t)
    everywhere = classifier_free(given, free, 2.5)(x, t)
    inside = np.array([False, True, True, True, False])
    np.testing.assert_array_equal(score[inside], everywhere[inside])
    np.testing.assert_array_equal(score[~inside], given(x, t)[~inside])


def test_halves_of_one_network_are_one_evaluation_and_equal_two():
    sizes, labeled = [], labeled_score(VP())

    def network(x, t, labels):
        sizes.append(x.shape[0])
        return labeled(x, t, labels)

    x, t, labels = jnp.linspace(-1.0, 1.0, 4)[:, None], jnp.linspace(0.1, 1.0, 4), jnp.array([1, 0, 1, 1])
    together = classifier_free(*halves(network, labels, null=0), 3.0)(x, t)
    assert sizes == [8]
    given = lambda x, t: labeled(x, t, labels)  # noqa: E731
    apart = classifier_free(given, lambda x, t: labeled(x, t, jnp.zeros(4, int)), 3.0)(x, t)
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_rescaling_restores_the_std_of_the_conditional_score():
    rng = np.random.RandomState(0)
    given, free = (jnp.asarray(rng.randn(3, 4, 4, 2) + 1.0, jnp.float32) for _ in range(2))
    scores, t = (lambda x, t: given, lambda x, t: free), jnp.ones(3)
    std = lambda x: np.asarray(x).reshape(3, -1).std(axis=1)  # noqa: E731
    plain = classifier_free(*scores, 4.0)(given, t)
    assert (std(plain) > 1.5 * std(given)).all()
    whole = classifier_free(*scores, 4.0, rescale=1.0)(given, t)
    np.testing.assert_allclose(std(whole), std(given), rtol=1e-5)
    half = classifier_free(*scores, 4.0, rescale=0.5)(given, t)
    np.testing.assert_allclose(half, 0.5 * (plain + whole), rtol=1e-5, atol=1e-6)


def test_autoguidance_undoes_the_blur_of_a_weaker_model_where_both_errors_are_one_error():
    """Scores of data that are too wide by e and by 2 e: at scale 2 the error cancels to first order."""
    sde, x, t, e = VP(), jnp.linspace(-2.0, 2.0, 5)[:, None], jnp.full(5, 0.3), 1e-2

    def score(variance):
        return lambda x, t: -x / (sde.marginal(t).mean_coeff ** 2 * variance + sde.marginal(t).std ** 2)[:, None]

    found = autoguidance(score(0.5 + e), score(0.5 + 2 * e), 2.0)(x, t)
    exact = score(0.5)(x, t)
    assert float(jnp.abs(found - exact).max()) < 0.05 * float(jnp.abs(score(0.5 + e)(x, t) - exact).max())


def test_new_scales_trace_nothing():
    traces = []
    given, free = two_scores(VP())
    times, x = sampling.uniform_times(4, 1e-2), jnp.ones((4, 1))

    @jax.jit
    def run(scale, low):
        traces.append(1)
        score = classifier_free(given, free, scale, (low, 2.0), process=VP())
        return sampling.integrate(KEYS, Heun(), VP().reverse(score), x, times).x

    first, second = run(2.0, 0.1), run(3.0, 0.2)
    assert len(traces) == 1 and not np.array_equal(first, second)


WRONG = {
    "negative": ({"scale": -1.0}, "scale is -1.0; expected a finite number of at least 0"),
    "not finite": ({"scale": np.inf}, "scale is inf; expected a finite number"),
    "a matrix": ({"scale": np.ones((2, 2))}, "expected a finite number of at least 0, or one for each example"),
    "another batch": ({"scale": np.full(3, 2.0)}, r"The scale of a batch has shape \(3,\); expected \(2,\)"),
    "an interval the wrong way": ({"interval": (2.0, 1.0), "process": VP()}, r"interval is \(2.0, 1.0\); expected two"),
    "an interval without a process": ({"interval": (1.0, 2.0)}, "no process; expected process=, such as VP"),
    "bounds by example": ({"interval": (np.zeros(2), np.ones(2)), "process": VP()}, "expected two noise-to-signal"),
    "a share by example": ({"rescale": np.ones(2)}, r"rescale is \[1. 1.\]; expected a fraction"),
    "more than all": ({"rescale": 1.5}, "rescale is 1.5; expected a fraction"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name):
    arguments, message = WRONG[name]
    given, free = two_scores(VP())
    with pytest.raises(UserError, match=message):
        score = classifier_free(**{"conditional": given, "unconditional": free, "scale": 2.0, **arguments})
        score(jnp.zeros((2, 1)), jnp.ones(2))


def test_labels_and_log_probabilities_of_another_shape_are_told():
    with pytest.raises(UserError, match="The labels are float32 of shape"):
        halves(labeled_score(VP()), jnp.ones(2))
    score = classifier_guidance(lambda x, t: -x, lambda x, t: -x, 1.0)
    with pytest.raises(UserError, match=r"The log-probability of a batch has shape \(2, 1\); expected \(2,\)"):
        score(jnp.zeros((2, 1)), jnp.ones(2))
    with pytest.raises(UserError, match="There are 3 labels for a batch of 2"):
        halves(labeled_score(VP()), jnp.ones(3, int))[0](jnp.zeros((2, 1)), jnp.ones(2))
    with pytest.raises(UserError, match="scale is nan"):
        classifier_guidance(lambda x, t: -x, lambda x, t: -x, np.nan)
