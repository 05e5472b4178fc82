"""Files appear whole or not at all, and a refusal to write is the user's error."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.files import atomic_savez


def test_arrays_survive_the_round_trip(tmp_path):
    atomic_savez(tmp_path / "a.npz", x=np.arange(5))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["x"], np.arange(5))


def test_a_full_disk_keeps_the_old_arrays_and_leaves_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    atomic_savez(path, x=np.arange(5))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        atomic_savez(path, x=np.zeros(3))
    np.testing.assert_array_equal(np.load(path)["x"], np.arange(5))
    assert list(tmp_path.iterdir()) == [path]
