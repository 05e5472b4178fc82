"""Processes and networks of one's own through ``fit``: as objects and by name, and what loads them again."""

import logging
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import score_sde
from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.sdes import VDM, VE, GaussianPath, LinearSDE, SubVP
from tests import own_parts
from tests.notebook.test_fit import fit, gaussian

PROCESSES = {
    "ve": (VE(sigma_max=10.0), {}),
    "subvp": (SubVP(beta_max=10.0), {}),
    "vdm": (VDM(), {}),
    "by name": ("tests.own_parts:cosine", {"sde.options.angle": 1.52}),
}


@pytest.mark.slow
@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", PROCESSES)
def test_the_densities_of_every_process_integrate_to_one_in_the_units_of_the_data(name, key, tmp_path):
    """Whatever the network says, the flow takes the prior to a density; the numbers of the process reach it."""
    process, options = PROCESSES[name]
    model = fit(50.0 + 3.0 * np.random.default_rng(0).normal(size=(64, 1)), process=process, steps=2, config=options)
    x = np.linspace(20.0, 80.0, 601)[:, None]
    found = model.log_likelihood(key, x, tolerance=1e-5)
    assert found.success.all() and np.isfinite(found.logp).all()
    assert np.exp(found.logp).sum() * 0.1 == pytest.approx(1.0, abs=0.01)
    again = score_sde.load(model.save(tmp_path / "model"), own_parts=True)
    assert np.array_equal(again.sample(key, 3, steps=4), model.sample(key, 3, steps=4))
    ours, theirs = (one.experiment.sde.marginal(jnp.float32(0.4)) for one in (model, again))
    assert ours == theirs
    if not isinstance(process, str):
        assert ours == process.marginal(jnp.float32(0.4))


@pytest.mark.parametrize(
    "process",
    [
        GaussianPath(lambda t: jnp.cos(1.5 * t), lambda t: jnp.sin(1.5 * t)),
        LinearSDE.from_coefficients(jnp.zeros_like, jnp.ones_like),
        own_parts.Known(),
    ],
    ids=["marginals", "coefficients", "class"],
)
def test_a_process_that_no_record_can_hold_is_asked_for_by_name(process):
    with pytest.raises(UserError, match=r"process is .*; expected VP, .* Of your own it is a name too, 'module:name'"):
        fit(gaussian(9), process=process, steps=2)


NETWORKS = {
    "linen": own_parts.Linen(),
    "nnx": own_parts.NNX,
    "nnx function": lambda rngs: own_parts.NNX((2,), rngs),
    "equinox": own_parts.Equinox,
    "equinox function": lambda key: own_parts.Equinox((2,), key),
    "functions": own_parts.functions(8),
}


@pytest.mark.slow
@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_any_library_is_trained_saved_and_loaded_to_the_bit(name, key, tmp_path):
    """Its directory is trained further by the same call."""
    network, x = NETWORKS[name], gaussian(200)
    model = fit(x, network=network, steps=3, config={"training.checkpoint_every": 50}, directory=tmp_path / "run")
    for again in (tmp_path / "run", model.save(tmp_path / "folder")):
        assert np.array_equal(
            score_sde.load(again, network=network).sample(key, 2, steps=4), model.sample(key, 2, steps=4)
        )
    assert np.isfinite(model.log_likelihood(key, x[:2], tolerance=1e-2).logp).all()
    further = fit(x, network=network, steps=4, config={"training.checkpoint_every": 50}, directory=tmp_path / "run")
    assert further.step == 4


@pytest.mark.slow
def test_a_network_that_a_program_gave_is_asked_for_wherever_its_model_is_read(tmp_path, caplog, capsys):
    network = own_parts.functions(4)
    model = fit(gaussian(50), network=network, steps=2, directory=tmp_path / "run")
    with caplog.at_level(logging.INFO):
        folder = model.save(tmp_path / "folder")
    name = "functions.<locals>.init and functions.<locals>.apply"
    assert f"it needs the network, {name}: score_sde.load('{folder}', network=...)" in caplog.text
    card = (folder / "README.md").read_text()
    assert f"network=...)  # the folder of this file, and {name} of the program" in card and "apply, 20 param" in card
    for place in ("run", "folder"):
        with pytest.raises(UserError, match=r"by score_sde.fit\(network=...\) with functions.*, which its config"):
            score_sde.load(tmp_path / place)
    with pytest.raises(UserError, match=r"expected the same network=..."):
        fit(gaussian(50), steps=4, directory=tmp_path / "run")
    for mode in ("sample", "train"):
        assert main([f"--workdir={tmp_path / 'run'}", f"--mode={mode}"]) == 2
        assert "expected the same network=..." in capsys.readouterr().err
    fitted = fit(gaussian(50), steps=2)
    fitted.save(folder)
    assert score_sde.load(folder).given == ""  # the earlier model is gone
    shutil.copytree(model.save(tmp_path / "again"), tmp_path / "moved")
    began = fit(gaussian(60), network=network, steps=2, config={"training.init_from": str(tmp_path / "moved")})
    assert began.given == name


BROKEN = {
    "shape": (lambda: own_parts.changes_shape(), r"network returns shape \(2, 1\) for data of shape \(2, 2\)"),
    "examples": (lambda: own_parts.mixes_examples(), "network gives an example another output when the other examples"),
    "drawn": (lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "network makes a Linear whose parameters are drawn already"),
    "state": (lambda: own_parts.LinenBatchNorm(), "network: The network has state besides its parameters"),
}


@pytest.mark.parametrize("clause", BROKEN)
def test_a_given_network_that_breaks_its_contract_is_refused_by_the_clause(clause):
    make, message = BROKEN[clause]
    with pytest.raises(UserError, match=message):
        fit(gaussian(9), network=make(), steps=2)


class EquinoxWithLabel(eqx.Module):
    layer: eqx.nn.Linear
    classes: jax.Array

    def __init__(self, event_shape, key):
        self.layer = eqx.nn.Linear(event_shape[-1] + 1 + 4, event_shape[-1], key=key)
        self.classes = jax.random.normal(key, (4, 4))

    def __call__(self, x, condition, label=None):
        return self.layer(jnp.concatenate([x, condition[None], self.classes[3 if label is None else label]]))


@pytest.mark.parametrize(
    "network", [own_parts.LinenWithLabel(num_classes=3), EquinoxWithLabel], ids=["linen", "equinox"]
)
def test_a_given_network_of_classes_is_given_them(network, key):
    x, labels = gaussian(40), np.arange(40) % 3
    model = fit(x, labels=labels, network=network, steps=2)
    one, other = (model.sample(key, 2, labels=label, steps=4) for label in (0, 1))
    assert not np.array_equal(one, other)
