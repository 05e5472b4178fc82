"""Precision, recall, density and coverage against their definitions, and configurations whose answer is plain."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import density_coverage, pairs, precision_recall


def by_definition(samples, reference, k):
    """The four by loops over single examples."""

    def radius(x, i):
        return sorted(np.linalg.norm(x[j] - x[i]) for j in range(len(x)) if j != i)[k - 1]

    def balls(centres, radii, point):
        return sum(np.linalg.norm(point - c) <= r for c, r in zip(centres, radii, strict=True))

    radii = {"s": [radius(samples, i) for i in range(len(samples))]}
    radii["r"] = [radius(reference, i) for i in range(len(reference))]
    in_reference = [balls(reference, radii["r"], s) for s in samples]
    in_samples = [balls(samples, radii["s"], r) for r in reference]
    holds = [any(np.linalg.norm(s - c) <= r for s in samples) for c, r in zip(reference, radii["r"], strict=True)]
    return (
        np.mean([n > 0 for n in in_reference]),
        np.mean([n > 0 for n in in_samples]),
        np.mean(in_reference) / k,
        np.mean(holds),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [1, 2**23])
def test_they_are_what_they_are_defined_to_be_whatever_the_blocks(k, block, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK", block)
    rng = np.random.default_rng(k)
    samples, reference = rng.normal(size=(44, 3)) * 0.7 + 100.0, rng.normal(size=(31, 3)) + 100.4
    precision, recall = precision_recall(samples, reference, k=k)
    density, coverage = density_coverage(samples, reference, k=k)
    found = [e.value for e in (precision, recall, density, coverage)]
    np.testing.assert_allclose(found, by_definition(samples, reference, k), rtol=1e-12)


def test_sets_far_apart_share_nothing_and_equal_sets_everything():
    x = np.random.default_rng(0).normal(size=(100, 2))
    apart = (*precision_recall(x, x + 100.0), *density_coverage(x, x + 100.0))
    assert [e.value for e in apart] == [0.0] * 4
    same = (*precision_recall(x, x), *density_coverage(x, x))
    assert [same[i].value for i in (0, 1, 3)] == [1.0] * 3
    assert same[2].value == pytest.approx(1.2, abs=0.35)  # each ball holds its centre too: (k + 1) / k on average
    assert same[0].low > 0.9 and same[0].high == 1.0


def test_a_lost_mode_costs_recall_and_an_invented_one_precision():
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 50.0
    both, other = np.concatenate([one, two]), rng.normal(size=(100, 2))
    lost = precision_recall(other, both)
    assert lost.precision.value > 0.85 and lost.recall.value <= 0.5
    invented = precision_recall(both, other)
    assert invented.precision.value <= 0.5 and invented.recall.value > 0.85
    assert density_coverage(other, both).coverage.value <= 0.5


def spread_and_cover(draw, reference, measure, runs):
    """For both shares: mean error over spread of the values, and how often their mean is covered."""
    found = [measure(draw(), reference) for _ in range(runs)]
    for i in range(2):
        estimates = [f[i] for f in found]
        values = np.array([e.value for e in estimates])
        covered = np.mean([e.low <= values.mean() <= e.high for e in estimates])
        yield np.mean([e.std_error for e in estimates]) / values.std(ddof=1), covered


@pytest.mark.parametrize("measure", [precision_recall, density_coverage])
def test_their_errors_are_the_spread_over_fresh_samples(measure):
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(200, 4))
    for ratio, covered in spread_and_cover(lambda: rng.normal(size=(200, 4)) * 0.8, reference, measure, 80):
        assert 0.75 < ratio < 2.0  # the jackknife is known to err upwards (Efron & Stein 1981)
        assert covered > 0.86


def test_too_few_neighbors_and_unlike_features_are_refused():
    x = np.random.default_rng(0).normal(size=(50, 2))
    for measure in (precision_recall, density_coverage):
        with pytest.raises(UserError, match="Neighbor 50 of 50 samples"):
            measure(x, x, k=50)
        with pytest.raises(UserError, match="2 and 1 dimensions"):
            measure(x, x[:, :1])
        with pytest.raises(UserError, match="reference features hold NaN"):
            measure(x, np.where(x > 2.0, np.inf, x))
