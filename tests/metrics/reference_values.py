"""Record what torch-fidelity and pytorch-fid make of features from a seed. Run by hand where both are installed:

    python tests/metrics/reference_values.py    # writes tests/metrics/data/reference_values.json

The features are float32 from NumPy's RandomState, whose streams are frozen, so the tests make them again
(``features``).
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

SIZES = {"num_samples": 600, "num_references": 500, "dimension": 24, "num_classes": 10}


def features(num_samples, num_references, dimension, num_classes):
    """Features of samples and of references, which overlap in part, and logits of the samples."""
    rng = np.random.RandomState(7)
    mixing = rng.randn(dimension, dimension) / np.sqrt(dimension)
    references = np.maximum(rng.randn(num_references, dimension) @ mixing + 0.5, 0.0)
    samples = np.maximum(rng.randn(num_samples, dimension) @ mixing * 0.9 + 0.6, 0.0)
    logits = 2.0 * rng.randn(num_samples, num_classes)
    return samples.astype(np.float32), references.astype(np.float32), logits.astype(np.float32)


def main():
    """Compute the values and write them."""
    import torch
    from pytorch_fid import fid_score
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    samples, references, logits = features(**SIZES)
    x, y, z = (torch.from_numpy(array) for array in (samples.astype(np.float64), references.astype(np.float64), logits))
    statistics = [metric_fid.fid_features_to_statistics(array) for array in (x, y)]
    kid = metric_kid.kid_features_to_metric(x, y, kid_subsets=20, kid_subset_size=200, rng_seed=2020, verbose=False)
    manifold = metric_prc.prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10000, verbose=False)
    values = {
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch-fidelity", "pytorch-fid", "torch", "numpy", "scipy")
        },
        "sizes": SIZES,
        "fid_torch_fidelity": metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
        "fid_pytorch_fid": float(
            fid_score.calculate_frechet_distance(*(s[k] for s in statistics for k in ("mu", "sigma")))
        ),
        "kid_subsets": 20,
        "kid_subset_size": 200,
        "kid_seed": 2020,
        "kid_mean": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is_unshuffled": metric_isc.isc_features_to_metric(z, 10, False),
        "is_shuffled_2020": metric_isc.isc_features_to_metric(z, 10, True, 2020),
        "precision": manifold["precision"],
        "recall": manifold["recall"],
    }
    path = Path(__file__).parent / "data" / "reference_values.json"
    path.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
