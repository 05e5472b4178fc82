"""The tables of experiments/conditioning: made of the reports that are there, and of what they say they are."""

import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning import classifier_free, operators, posterior_score
from score_sde.evaluation.problems import CorrelatedGaussian
from score_sde.sdes import VP
from tests.analytic import Gaussian
from tests.scripts import EXPERIMENTS, load_script

METRICS = ("frechet", "precision", "recall")


@pytest.mark.parametrize(
    ("name", "flags", "reports", "row"),
    [
        (
            "guidance",
            ["--scales", "1", "--limited"],
            {
                "row-0/evaluation.json": {
                    "checkpoints": [
                        {
                            "class_accuracy": 0.5,
                            "class_accuracy_std_error": 0.01,
                            "metrics": {name: {"value": 2.0, "std_error": 0.1} for name in METRICS},
                        }
                    ]
                }
            },
            "| 1 | 50.0 ± 1.0 % | 2.0 ± 0.1 | 2.000 ± 0.100 | 2.000 ± 0.100 |",
        ),
        (
            "coverage",
            ["--noise", "0.1"],
            {
                f"mask-0.1-{method}/restoration.json": {
                    **{"coverage": 0.9, "coverage_std_error": 0.01, "psnr_mean": 20.0, "psnr_mean_std_error": 0.5},
                    **{"num_evals": 7.0, "num_products": 3.0},
                }
                for method in ("mmps", "pigdm", "daps", "tds", "dps")
            },
            "| the upper half | 0.1 | daps | 0.900 ± 0.010 | - | 20.0 ± 0.5 | - | 7 + 3 |",
        ),
    ],
)
def test_a_table_is_made_of_the_reports_that_are_there(tmp_path, monkeypatch, capsys, name, flags, reports, row):
    for place, report in reports.items():
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(json.dumps(report))
    script = load_script(EXPERIMENTS / "conditioning" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [name, "--workdir=nowhere", f"--out={tmp_path}", *flags])
    script.main()
    assert row in capsys.readouterr().out.splitlines()


def test_projected_guidance_is_what_the_table_says_it_is():
    """With its parallel part the guidance is classifier-free; without, its update is orthogonal, as short as asked."""
    script = load_script(EXPERIMENTS / "conditioning" / "projected.py")
    rng, sde = np.random.RandomState(0), VP()
    given, free, x = (jnp.asarray(rng.randn(3, 4, 4, 1), jnp.float32) for _ in range(3))
    t = jnp.array([0.1, 0.5, 0.9])
    scores = (lambda x, t: given, lambda x, t: free)

    def update(**numbers):
        found = script.Projected(*scores, sde, script.Numbers(**numbers))(x, t)
        m, s = (c[:, None, None, None] for c in sde.marginal(t))
        return np.asarray(s**2 / m * (found - given)), np.asarray((x + s**2 * given) / m)

    whole, _ = update(scale=3.0, parallel=1.0)
    plain = classifier_free(*scores, 3.0)(x, t)
    np.testing.assert_allclose(
        script.Projected(*scores, sde, script.Numbers(3.0, parallel=1.0))(x, t), plain, rtol=1e-4
    )
    rest, denoised = update(scale=3.0)
    sizes = [np.sqrt((part**2).sum(axis=(1, 2, 3))) for part in (rest, denoised, whole)]
    assert (np.abs((rest * denoised).sum(axis=(1, 2, 3))) < 1e-4 * sizes[0] * sizes[1]).all()
    assert (sizes[0] < sizes[2]).all()
    short, _ = update(scale=2.0, norm=0.01, parallel=1.0)
    np.testing.assert_allclose(np.sqrt((short**2).sum(axis=(1, 2, 3))), 0.01, rtol=1e-3)
    np.testing.assert_array_equal(script.Projected(*scores, sde, script.Numbers(1.0))(x, t), given)


@pytest.mark.parametrize(("method", "noise_std"), [("MMPS", 0.5), ("PiGDM", 0.5), ("DPS", 0.5), ("DDNM", 0.0)])
def test_the_laws_that_are_propagated_are_those_of_the_scores_of_the_package(method, noise_std):
    """And the one of moment matching, solved to the end, is the posterior."""
    script = load_script(EXPERIMENTS / "conditioning" / "laws.py")
    setting = script.Setting(VP(), 1e-3, CorrelatedGaussian(4), 0)
    y, t, x = script.observations(setting, noise_std), jnp.full(16, 0.4), np.random.RandomState(0).randn(16, 4)
    m, s = (float(c) for c in setting.sde.marginal(t[0]))
    options = {"method": method.lower(), "iterations": 4, "data_std": 0.5}
    mask = operators.mask(setting.known)
    score = posterior_score(setting.sde, setting.score, mask, jnp.asarray(y), noise_std, **options)
    matrix, pulled = script.affine(setting, method, s / m, noise_std)
    expected = x @ matrix.T + y[:, setting.known] @ pulled.T
    np.testing.assert_allclose(m * score(jnp.asarray(m * x, jnp.float32), t), expected, rtol=2e-3, atol=2e-3)
    law = script.posterior(setting, y, noise_std)
    means, covariance = script.propagated(setting, method, y, noise_std, 1.0)
    near = [np.abs(means - law.means).max(), np.abs(covariance - (law.axes * law.stds**2) @ law.axes.T).max()]
    assert (max(near) < 1e-3) == (method == "MMPS"), near


@pytest.mark.parametrize("turned", [0.0, 0.3])
def test_the_jacobian_of_a_gaussian_denoiser_is_its_covariance_until_it_is_turned(turned):
    script = load_script(EXPERIMENTS / "conditioning" / "jacobian.py")
    process, density, t = VP(), Gaussian.correlated(16, std=0.4), jnp.array(0.3)
    turn = np.triu(np.random.RandomState(0).randn(16, 16), 1)
    turn = jnp.asarray(turn - turn.T, jnp.float32)

    def score(x, t):
        flat = x.reshape(len(x), 16)
        return (density.score(process)(flat, t) + turned * flat @ turn).reshape(x.shape)

    stub = SimpleNamespace(process=process, event_shape=(4, 4, 1), followed_score=lambda params: score)
    image = jnp.asarray(density.sample(1, seed=0).reshape(4, 4, 1), jnp.float32)
    _, trace, ratio, negative = script.measured(stub, {})(jax.random.key(0), image, t)
    m, s = (float(c) for c in process.marginal(t))
    covariance = 1.0 / (1.0 / density.eigenvalues + (m / s) ** 2)  # of the posterior, along the axes
    assert trace == pytest.approx(covariance.sum(), rel=1e-3) and negative < 1e-3
    rest = turned * s**4 / m**2 * np.linalg.norm(turn)
    assert ratio == pytest.approx(rest / np.linalg.norm(covariance), rel=1e-3, abs=1e-3)
