"""The baseline is honest: it knows the entropy of what a mixture can express, and takes nothing from the test set."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from score_sde.evaluation import baseline
from score_sde.evaluation.baseline import gaussian_mixture_bits_per_dim
from score_sde.quantization import Quantization

CONTINUOUS = Quantization(num_grey_levels=None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(baseline, "COMPONENTS", {"diag": (1, 2, 5), "full": (1, 2, 5), "tied": (1, 2)})


def _correlated(n, seed):
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 0.5, 0.1], [0.0, 0.1, 0.3]])
    draws = np.random.default_rng(seed).multivariate_normal(np.array([0.5, 0.0, -1.0]), covariance, size=n)
    entropy = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1] / (3 * math.log(2))
    return draws, entropy


def test_a_gaussian_gets_its_entropy():
    train, entropy = _correlated(6000, 0)
    test, _ = _correlated(4000, 1)
    result = gaussian_mixture_bits_per_dim(train, test, quantization=CONTINUOUS)
    assert result.covariance in ("full", "tied")
    assert abs(result.bits_per_dim - entropy) < 3 * result.std_error
    # A Gaussian's log-density has variance d / 2 nats^2.
    expected_error = math.sqrt(1.5) / (3 * math.log(2)) / math.sqrt(4000)
    assert result.std_error == pytest.approx(expected_error, rel=0.1)


@pytest.mark.parametrize("centered", [True, False])
def test_levels_of_a_fine_gaussian_get_its_discrete_entropy(centered):
    """With bins far narrower than the Gaussian, its entropy in bits of levels is log2(std sqrt(2 pi e))."""
    rng = np.random.default_rng(0)
    levels = [np.rint(rng.normal(128, 12, size=(n, 2, 2, 1))).clip(0, 255).astype(np.uint8) for n in (3000, 1500)]
    quantization = Quantization(num_grey_levels=256, centered=centered)
    result = gaussian_mixture_bits_per_dim(levels[0], levels[1], quantization=quantization)
    assert abs(result.bits_per_dim - math.log2(12 * math.sqrt(2 * math.pi * math.e))) < 3 * result.std_error + 0.005


def test_the_number_of_components_is_found_and_the_mixture_is_worth_it():
    rng = np.random.default_rng(0)
    centres = np.array([[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0], [0.0, -6.0], [9.0, 9.0]])
    split = [centres[rng.integers(5, size=n)] + rng.standard_normal((n, 2)) for n in (3000, 2000)]
    result = gaussian_mixture_bits_per_dim(split[0], split[1], quantization=CONTINUOUS)
    entropy = math.log2(math.sqrt(2 * math.pi * math.e)) + math.log2(5) / 2
    assert result.num_components == 5
    assert abs(result.bits_per_dim - entropy) < 3 * result.std_error + 0.01


def test_constant_pixels_and_few_images_do_no_harm():
    levels = np.zeros((30, 4, 4, 1), np.uint8)
    levels[:, 1, 1, 0] = np.arange(30) % 17
    result = gaussian_mixture_bits_per_dim(levels[:20], levels[20:], quantization=Quantization(num_grey_levels=17))
    assert math.isfinite(result.bits_per_dim) and result.num_train == 20
    # A uniform bin is worth 0 bits; a Gaussian of its variance spends log2(sqrt(2 pi e / 12)) = 0.254 on it.
    assert 0.0 < result.bits_per_dim < 2.0


def test_the_same_seed_gives_the_same_numbers():
    train, _ = _correlated(400, 0)
    first, second = (
        gaussian_mixture_bits_per_dim(train, train[:50], quantization=CONTINUOUS, seed=3)._replace(seconds=0.0)
        for _ in range(2)
    )
    assert first == second


def test_no_library_uses_several_threads_for_it():
    """Not even one that is loaded for it, in a process that has used none before."""
    program = """
import numpy as np
from score_sde.evaluation import baseline
from score_sde.quantization import Quantization
chosen = baseline._choose
def watched(*arguments):
    import scipy.linalg, sklearn.mixture, threadpoolctl
    print([library["num_threads"] for library in threadpoolctl.threadpool_info()])
    return chosen(*arguments)
baseline._choose, baseline.COMPONENTS = watched, {"diag": (1,)}
x = np.random.default_rng(0).standard_normal((50, 2))
baseline.gaussian_mixture_bits_per_dim(x, x, quantization=Quantization(num_grey_levels=None))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    threads = json.loads(done.stdout)
    assert len(threads) >= 2 and set(threads) == {1}
