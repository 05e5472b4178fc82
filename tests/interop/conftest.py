"""Files for the readers, written and read back in one step."""

import pytest

from score_sde.errors import UserError
from score_sde.interop import read_torch


@pytest.fixture
def load(tmp_path):
    """Reads the bytes of a PyTorch file."""

    def load(data):
        path = tmp_path / "checkpoint_1"
        path.write_bytes(data)
        return read_torch(path)

    return load


@pytest.fixture
def refused(load):
    """The message with which the bytes of a file are refused, by the module's own ``load`` where it has one."""

    def refused(data):
        with pytest.raises(UserError) as info:
            load(data)
        assert "checkpoint_1" in str(info.value)
        return str(info.value)

    return refused
