"""Clock times come from the event files, whole or torn; the number of parameters from a checkpoint's list of arrays."""

import jax.numpy as jnp
import pytest

from score_sde.files import atomic_write_json
from score_sde.report.run import parameter_count, read_run
from score_sde.training.writers import MetricWriter, read_timings


def _write(workdir, steps, rate):
    writer = MetricWriter(workdir)
    for step in steps:
        writer.write(step, {"loss": 1.0}, timings={"images_per_second": rate})


def test_rates_read_back_and_a_step_trained_twice_has_its_later_rate(tmp_path):
    _write(tmp_path, (1, 2, 3), 10.0)
    _write(tmp_path, (3, 4), 20.0)
    found = read_timings(tmp_path / "tensorboard")
    assert found.rates["images_per_second"] == [(1.0, 10.0), (2.0, 10.0), (3.0, 20.0), (4.0, 20.0)]
    assert found.rates["data_wait_fraction"] == [] and found.seconds > 0.0


@pytest.mark.parametrize("cut", [1, 7, 13, 40])
def test_a_torn_file_gives_what_is_whole_in_it(tmp_path, cut):
    _write(tmp_path, (1, 2, 3), 10.0)
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_timings(path.parent).rates["images_per_second"] == [(1.0, 10.0), (2.0, 10.0)]


def test_noise_is_no_event_file(tmp_path):
    (tmp_path / "events.out").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "events.zero").write_bytes(bytes(200))
    assert read_timings(tmp_path).rates["images_per_second"] == []
    assert read_timings(tmp_path / "nowhere").seconds == 0.0


def test_parameters_are_those_that_orbax_lists(tmp_path):
    import orbax.checkpoint as ocp

    atomic_write_json(tmp_path / "config.json", {})
    params = {"a": {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}, "scale": jnp.ones(())}
    with ocp.StandardCheckpointer() as checkpointer:
        for step, kept in ((9, {"scale": params["scale"]}), (10, params)):
            tree = {"params": kept, "ema_params": kept, "step": jnp.zeros((), jnp.int32)}
            checkpointer.save(tmp_path / "checkpoints" / str(step) / "state", tree)
    assert parameter_count(read_run(tmp_path)) == 3 * 5 + 5 + 1
