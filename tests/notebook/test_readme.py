"""The example of the README for a user's own data."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_example_for_own_data_trains_samples_and_measures(tmp_path, monkeypatch):
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "fit(" in block
    )
    assert len(example.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    # Better than the Gaussian of the training flowers, in the same nats of lengths in cm.
    train, test = names["train"], names["test"]
    precision, offsets = np.linalg.inv(np.cov(train.T)), test - train.mean(axis=0)
    square = np.einsum("ni,ij,nj->n", offsets, precision, offsets)
    gaussian = -0.5 * (square + np.linalg.slogdet(2.0 * np.pi * np.cov(train.T))[1])
    assert np.mean(names["found"].logp) > gaussian.mean()
    assert names["digits"].shape == (16, 8, 8, 1)
    assert (tmp_path / "iris" / "model.safetensors").is_file()
