"""Law 7: the likelihood against closed forms, first with the exact terminal density, then with the prior."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.likelihood import Quantization, bits_per_dim, flow, log_likelihood, log_likelihood_on_grid
from score_sde.likelihood.divergence import draw_probes
from score_sde.sampling import uniform_times
from score_sde.sdes import VE, VP, SubVP
from tests.analytic import SDES, Gaussian, Mixture

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.correlated(4)
X = jnp.asarray(DENSITY.sample(16), jnp.float32)
START = jnp.full((16,), 1e-5)


def measure(sde, x=X, density=DENSITY, **options):
    options = {"rtol": 1e-6, "atol": 1e-6, "num_probes": None} | options
    return jax.jit(lambda x: log_likelihood(jax.random.key(0), sde, density.score(sde), x, **options))(x)


@pytest.mark.sweep
@each_sde
def test_exact_trace_on_a_correlated_gaussian(sde):
    terminal = lambda z: DENSITY.logp(sde, jnp.ones(16), z)  # noqa: E731
    result = measure(sde, terminal_logp=terminal)
    assert bool(result.success.all())
    np.testing.assert_allclose(result.logp, DENSITY.logp(sde, START, X), atol=1e-3)
    np.testing.assert_allclose(result.latents, DENSITY.flow(sde, X, 1e-5, 1.0), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(result.probe_std_error, 0.0)


@pytest.mark.sweep
@each_sde
def test_exact_trace_on_a_mixture(sde):
    mixture = Mixture.three()
    x = jnp.asarray(mixture.sample(16), jnp.float32)
    terminal = lambda z: mixture.logp(sde, jnp.ones(16), z)  # noqa: E731
    result = measure(sde, x, mixture, terminal_logp=terminal)
    np.testing.assert_allclose(result.logp, mixture.logp(sde, START, x), atol=3e-3)


@pytest.mark.sweep
@each_sde
def test_prior_mismatch_is_the_whole_difference(sde):
    terminal = lambda z: DENSITY.logp(sde, jnp.ones(16), z)  # noqa: E731
    exact, with_prior = measure(sde, terminal_logp=terminal), measure(sde)
    mismatch = sde.prior_logp(exact.latents) - terminal(exact.latents)
    np.testing.assert_allclose(with_prior.logp - exact.logp, mismatch, atol=1e-4)


@pytest.mark.sweep
@pytest.mark.parametrize("std", [0.25, 0.5, 1.0])
def test_published_bits_per_dim_of_isotropic_data(std):
    """Data N(0, s^2 I) under the VP SDE: 8.047096 "bits/dim" for s = 0.5 with the offset 7; log2 s more otherwise."""
    dim = 4
    density = Gaussian.isotropic(dim, std)
    # Points whose mean square is exactly s^2, so that their mean log-likelihood is exactly minus the entropy.
    x = jnp.full((2, dim), std, jnp.float32) * jnp.array([[1.0], [-1.0]])
    logp = measure(VP(), x, density, num_probes=1).logp
    bits = Quantization(num_grey_levels=256).bits_per_dim(logp, dim)
    np.testing.assert_allclose(bits, 8.047096 + np.log2(std / 0.5), atol=2e-5)


@pytest.mark.sweep
@pytest.mark.parametrize(("sde", "expected"), [(VP(), -0.22580905), (SubVP(), -0.22582864), (VE(), -0.22594135)])
def test_published_density_at_the_origin(sde, expected):
    logp = measure(sde, jnp.zeros((1, 1)), Gaussian.isotropic(1, 0.5)).logp
    np.testing.assert_allclose(logp, expected, atol=1e-5)


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_its_error_falls_as_one_over_root_k():
    sde = VP()
    exact = np.asarray(measure(sde).logp)
    options = {"rtol": 1e-4, "atol": 1e-4}

    def spread(probes):
        run = jax.jit(lambda key: log_likelihood(key, sde, DENSITY.score(sde), X, num_probes=probes, **options).logp)
        errors = np.stack([np.asarray(run(jax.random.key(i))) for i in range(64)]) - exact
        assert np.abs(errors.mean(axis=0)).max() < 5 * errors.std(axis=0).max() / np.sqrt(64) + 1e-3
        return errors.std()

    one, sixteen = spread(1), spread(16)
    assert 3.2 < one / sixteen < 5.0
    assert one > 0.1  # a diagonal Gaussian would have none


def test_reported_probe_error_is_the_observed_one():
    sde = VP()
    options = {"rtol": 1e-4, "atol": 1e-4, "num_probes": 8}
    run = jax.jit(lambda key: log_likelihood(key, sde, DENSITY.score(sde), X, **options))
    results = [run(jax.random.key(i)) for i in range(48)]
    observed = np.std([np.asarray(r.logp) for r in results], axis=0).mean()
    reported = np.sqrt(np.mean([np.asarray(r.probe_std_error) ** 2 for r in results], axis=0)).mean()
    assert 0.8 < reported / observed < 1.25
    assert bool(jnp.isnan(measure(sde, num_probes=1).probe_std_error).all())


@pytest.mark.slow
def test_rademacher_is_exact_on_a_diagonal_gaussian_and_gaussian_probes_are_not():
    density = Gaussian(np.zeros(4), np.eye(4), np.array([0.1, 0.2, 0.3, 0.4]))
    sde = VP()
    truth = measure(sde, density=density).logp
    rademacher = measure(sde, density=density, num_probes=1).logp
    gaussian = measure(sde, density=density, num_probes=1, probe_kind="gaussian").logp
    np.testing.assert_allclose(rademacher, truth, atol=1e-4)
    assert float(jnp.abs(gaussian - truth).max()) > 0.1


@pytest.mark.slow
def test_an_example_does_not_depend_on_its_batch():
    sde = SubVP()
    whole = measure(sde, num_probes=2)
    first = measure(sde, X[:1], num_probes=2)
    np.testing.assert_allclose(first.logp, whole.logp[:1], atol=5e-5)
    assert abs(int(first.num_evals[0]) - int(whole.num_evals[0])) <= 6  # rounding may take or spare one step


@pytest.mark.slow
def test_likelihood_is_differentiable():
    """d log p / dx of the flow is the score at t0: the gradient passes through the solver."""
    sde = VP()
    gradient = jax.grad(lambda x: measure(sde, x).logp.sum())(X[:2])
    np.testing.assert_allclose(gradient, DENSITY.score(sde)(X[:2], START[:2]), rtol=0.05, atol=0.05)


REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference" / "a4_likelihood.npz"


@pytest.mark.sweep
@pytest.mark.skipif(not REFERENCE.is_file(), reason="the recorded values of the original code are not at hand")
@pytest.mark.parametrize("case", ["diag", "full"])
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_bits_per_dim_agree_with_the_original_code(case, name):
    """Exact traces against the float64 truth recorded with the original's output, in its bits/dim with offset 7."""
    reference = np.load(REFERENCE)
    sde = {"vp": VP(), "subvp": SubVP(), "ve": VE()}[name]
    covariance = reference["cov_full"] if case == "full" else np.diag(reference["s"].reshape(-1) ** 2)
    eigenvalues, basis = np.linalg.eigh(covariance)
    density = Gaussian(reference["mu"].reshape(-1), basis, eigenvalues)
    x = jnp.asarray(reference[f"{case}/data"].reshape(4, 12), jnp.float32)
    logp = measure(sde, x, density).logp
    bits = Quantization(num_grey_levels=256).bits_per_dim(logp, 12)
    prefix = f"{case}/{name}/Rademacher/centered"
    truth = reference[f"{prefix}/true_bpd_exact_trace"]
    np.testing.assert_allclose(bits, truth, atol=1e-4)


@pytest.mark.sweep
@pytest.mark.skipif(not REFERENCE.is_file(), reason="the recorded values of the original code are not at hand")
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_with_the_original_s_probes_the_values_are_the_original_s(name, monkeypatch):
    """Correlated data, Rademacher and Gaussian probes: its output, and the float64 truth of what it estimates."""
    reference = np.load(REFERENCE)
    sde = {"vp": VP(), "subvp": SubVP(), "ve": VE()}[name]
    eigenvalues, basis = np.linalg.eigh(reference["cov_full"])
    density = Gaussian(reference["mu"].reshape(-1), basis, eigenvalues)
    given = {}
    monkeypatch.setattr(flow, "draw_probes", lambda key, count, shape, kind: given["probe"])

    @jax.jit
    def run(x, probe):
        given["probe"] = probe
        score_fn = density.score(sde)
        return log_likelihood(jax.random.key(0), sde, score_fn, x, rtol=1e-6, atol=1e-6, num_probes=1).logp

    for kind in ("Rademacher", "Gaussian"):
        prefix = f"full/{name}/{kind}/centered"
        data, probes = (reference[field].reshape(4, 12) for field in ("full/data", f"epsilon_{kind}"))
        logp = jnp.stack([run(x[None], e[None])[0] for x, e in zip(data, probes, strict=True)])
        bits = Quantization(num_grey_levels=256).bits_per_dim(logp, 12)
        np.testing.assert_allclose(bits, reference[f"{prefix}/bpd"], atol=1e-4)
        np.testing.assert_allclose(bits, reference[f"{prefix}/true_bpd_hutch"], atol=1e-4)


LEVELS = np.random.RandomState(0).randint(256, size=(3, 4, 4, 1))
EIGHT_BIT = Quantization(num_grey_levels=256)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (LEVELS, "expected dequantized ones"),
        (LEVELS / 255.0 * 2.0 - 1.0, "have no noise"),
        (LEVELS / 256.0 * 2.0 - 1.0, "have no noise"),
        (np.asarray(EIGHT_BIT.midpoints(jnp.asarray(LEVELS))), "have no noise"),
        (LEVELS + 0.3, "expected -1 to 1, the declared range"),
    ],
)
def test_data_without_noise_and_of_another_range_are_refused(x, message):
    """Their densities would not bound the probability of any image."""
    with pytest.raises(UserError, match=message):
        bits_per_dim(jax.random.key(0), VP(), lambda x, t: -x, jnp.asarray(x), quantization=EIGHT_BIT)


@pytest.mark.parametrize(
    ("x", "num_probes", "message"),
    [
        (jnp.zeros((2, 2), int), 1, "of type int32; expected floating-point numbers"),
        (jnp.zeros((0, 2)), 1, r"shape \(0, 2\); expected one example at least"),
        (jnp.zeros((2, 0)), 1, r"shape \(2, 0\); expected one example at least"),
        (jnp.zeros((1, 2)), 1.5, r"num_probes is 1\.5; expected 1 or more"),
        (jnp.zeros((1, 2)), True, "num_probes is True; expected 1 or more"),
    ],
)
def test_what_has_no_likelihood_is_refused(x, num_probes, message, monkeypatch):
    """As it is outside of the tests, where no annotation is checked."""
    monkeypatch.setattr(flow, "draw_probes", draw_probes.__wrapped__)
    with pytest.raises(UserError, match=message):
        log_likelihood.__wrapped__(jax.random.key(0), VP(), lambda x, t: -x, x, num_probes=num_probes)
    if num_probes == 1 and not isinstance(num_probes, bool):
        with pytest.raises(UserError, match=message):
            log_likelihood_on_grid.__wrapped__(jax.random.key(0), VP(), lambda x, t: -x, x, uniform_times(5))


@pytest.mark.parametrize("t0", [0.0, -1e-3, 1.0])
def test_times_without_noise_are_refused(t0):
    with pytest.raises(UserError, match="expected a time between 0 and 1"):
        log_likelihood(jax.random.key(0), VP(), lambda x, t: -x, jnp.zeros((1, 2)), t0=t0)


def test_a_grid_that_ends_at_the_data_is_refused():
    with pytest.raises(UserError, match="expected a positive one"):
        log_likelihood_on_grid(jax.random.key(0), VP(), lambda x, t: -x, jnp.zeros((1, 2)), uniform_times(5, 0.0))
