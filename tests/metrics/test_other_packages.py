"""The numbers of torch-fidelity and pytorch-fid on the same features (recorded by ``reference_values.py``)."""

import json
from pathlib import Path

import pytest

from score_sde.metrics import frechet_distance, inception_score, kernel_distance, moments, precision_recall
from tests.scripts import load_script

_HERE = Path(__file__).parent
VALUES = json.loads((_HERE / "data" / "reference_values.json").read_text())
RTOL = 1e-4


@pytest.fixture(scope="module")
def arrays():
    return load_script(_HERE / "reference_values.py").features(**VALUES["sizes"])


@pytest.mark.parametrize("package", ["torch_fidelity", "pytorch_fid"])
def test_frechet_distance(arrays, package):
    samples, references, _ = arrays
    assert frechet_distance(moments(samples), moments(references)) == pytest.approx(VALUES[f"fid_{package}"], rel=RTOL)


@pytest.mark.parametrize("shuffle_seed, key", [(None, "is_unshuffled"), (2020, "is_shuffled_2020")])
def test_inception_score(arrays, shuffle_seed, key):
    found = inception_score(arrays[2], 10, shuffle_seed=shuffle_seed)
    assert found.mean == pytest.approx(VALUES[key]["inception_score_mean"], rel=RTOL)
    assert found.std == pytest.approx(VALUES[key]["inception_score_std"], rel=RTOL)


def test_kernel_distance(arrays):
    samples, references, _ = arrays
    sizes = {"num_subsets": VALUES["kid_subsets"], "subset_size": VALUES["kid_subset_size"]}
    found = kernel_distance(samples, references, seed=VALUES["kid_seed"], **sizes)
    assert found.subset_mean == pytest.approx(VALUES["kid_mean"], rel=RTOL)
    assert found.subset_std == pytest.approx(VALUES["kid_std"], rel=RTOL)


def test_precision_and_recall(arrays):
    samples, references, _ = arrays
    found = precision_recall(samples, references, k=3)
    assert found.precision.value == pytest.approx(VALUES["precision"], abs=1e-6)
    assert found.recall.value == pytest.approx(VALUES["recall"], abs=1e-6)
