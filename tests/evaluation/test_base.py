"""The fingerprint of parameters tells them apart, and does not know where they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_sde.distributed import AXES
from score_sde.evaluation import base
from score_sde.evaluation.base import fingerprint

PARAMS = {"kernel": jax.random.normal(jax.random.key(0), (8, 4)), "bias": jnp.zeros(4, jnp.bfloat16)}


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "data")])
def test_it_is_the_same_however_they_are_spread(spec):
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(2, 1), AXES, axis_types=(AxisType.Auto,) * 2)
    spread = jax.device_put(PARAMS["kernel"], NamedSharding(mesh, spec))
    assert fingerprint(PARAMS | {"kernel": spread}) == fingerprint(PARAMS)


def test_every_single_bit_and_the_order_count():
    kernel = np.asarray(PARAMS["kernel"])
    others = [kernel[::-1], kernel.T.reshape(8, 4), -kernel]
    for index in np.ndindex(*kernel.shape):
        for bit in (0, 9, 31):
            changed = kernel.copy()
            changed.view(np.uint32)[index] ^= np.uint32(1 << bit)
            others.append(changed)
    found = {fingerprint(PARAMS | {"kernel": jnp.asarray(other)}) for other in others}
    assert len(found) == len(others)
    assert fingerprint(PARAMS) not in found
    assert fingerprint({"kernel": PARAMS["bias"], "bias": PARAMS["kernel"]}) != fingerprint(PARAMS)


def test_it_is_the_same_on_every_kind_of_device(monkeypatch):
    params = PARAMS | {"temperature": jnp.float32(1.5), "steps": jnp.arange(5), "nothing": jnp.zeros((0, 3))}
    on_host = fingerprint(params)
    monkeypatch.setattr(base, "_is_at_hand", lambda leaf: False)
    assert fingerprint(params) == on_host


def test_no_program_is_compiled_for_parameters_on_the_host(monkeypatch):
    monkeypatch.setattr(base, "_total_on_devices", None)
    assert len(fingerprint(PARAMS)) == 8
