"""What ``--mode=restore`` leaves: files that can be given again, a page, draws in parts, and results kept apart."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from score_sde.cli import main
from score_sde.data.images import encode_png
from score_sde.evaluation import samples
from tests.evaluation.test_sample_mode import CONFIG, TINY, save_model, tiny

SMALL = TINY | {
    "conditioning.num_images": 3,
    "conditioning.draws": 4,
    "conditioning.method": "daps",
    "conditioning.flow_steps": 1,
}
FILES = ("restoration.json", "restoration.npz", "restoration.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tiny())


def restore(workdir, *flags, **changes):
    fields = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--config={CONFIG}", f"--workdir={workdir}", "--mode=restore", *flags, *overrides])


def arrays(place):
    with np.load(place / "restoration.npz") as file:
        return dict(file)


def report(place):
    return json.loads((place / "restoration.json").read_text())


def test_a_command_leaves_a_picture_numbers_and_a_page_and_its_observations_can_be_given_again(model, tmp_path):
    before = sorted(model.iterdir())
    first, again = tmp_path / "first", tmp_path / "again"
    assert restore(model, f"--out={first}") == 0
    assert sorted(model.iterdir()) == before  # a run is only read
    found, numbers = arrays(first), report(first)
    assert found["y"].shape == found["truth"].shape == (3, 8, 8, 1)
    assert found["draws"].shape == (3, 4, 8, 8, 1) and found["draws"].dtype == np.uint8
    assert len(numbers["images"]) == 3 and numbers["nominal_coverage"] == 0.6
    assert (numbers["num_evals"], numbers["num_products"]) == (3.0, 0.0)  # three steps
    assert all(np.isfinite(numbers[name]) for name in ("psnr_mean", "psnr_draws", "coverage", "residual", "seconds"))
    with Image.open(first / "restoration.png") as picture:
        assert picture.width > 8 * 64 and picture.height > 3 * 64  # truth, observation, four draws, mean, std
    assert "Peak signal-to-noise ratio" in (first / "summary.md").read_text()
    assert main([f"--workdir={model}", "--mode=report", f"--out={first}"]) == 0
    assert "Coverage of intervals" in (first / "report.html").read_text()
    # The same observations from the file, and the same draws of them.
    assert restore(model, f"--out={again}", conditioning__images=first / "restoration.npz") == 0
    for name, values in arrays(again).items():
        np.testing.assert_array_equal(values, found[name])
    assert {name: numbers[name] for name in ("coverage", "residual")}.items() <= report(again).items()


@pytest.mark.slow
def test_an_image_is_restored_from_its_file_and_results_of_other_settings_are_kept(model, tmp_path):
    workdir = shutil.copytree(model, tmp_path / "run")
    image = np.random.RandomState(0).randint(0, 256, (8, 8, 1)).astype(np.uint8)
    (tmp_path / "photo.png").write_bytes(encode_png(image))
    given = {"conditioning__images": tmp_path / "photo.png", "conditioning__operator": "downsample"}
    assert restore(workdir, **given) == 0
    found = arrays(workdir)
    assert found["y"].shape == (1, 4, 4, 1) and report(workdir)["num_images"] == 1
    np.testing.assert_allclose(found["truth"][0], image / 127.5 - 1.0, atol=0.2)  # of 17 gray levels
    assert restore(workdir, **given, conditioning__noise_std=0.3) == 0
    assert all((workdir / "earlier" / "restore-1" / name).exists() for name in FILES)
    assert report(workdir / "earlier" / "restore-1")["noise_std"] == 0.1
    assert not list(workdir.glob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_draws_that_were_made_when_a_signal_came_are_not_made_again(number, code, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
    check, batches = samples.check_samples, []

    def asked(*arguments):
        batches.append(1)
        if len(batches) == 2:
            os.kill(os.getpid(), number)
        check(*arguments)

    monkeypatch.setattr(samples, "check_samples", asked)
    cut, whole = f"--out={tmp_path / 'cut'}", f"--out={tmp_path / 'whole'}"
    assert restore(model, cut) == code
    assert "Traceback" not in capsys.readouterr().err
    assert restore(model, cut) == 0
    assert len(batches) == 2 + 1  # the second of two batches, again
    assert restore(model, whole) == 0
    assert (tmp_path / "whole" / "restoration.npz").read_bytes() == (tmp_path / "cut" / "restoration.npz").read_bytes()
    assert not list((tmp_path / "cut").glob("*.partial*"))


def test_what_cannot_be_restored_is_said_before_the_model_is_read(model, tmp_path, capsys):
    for changes, message in (
        ({"conditioning__images": tmp_path / "none.png"}, "there is no such file; expected an image"),
        ({"conditioning__method": "ddnm"}, "config.conditioning.noise_std is 0.1; expected 0"),
        ({"conditioning__operator": "gray"}, "Did you mean 'grey'?"),
    ):
        assert restore(model, f"--out={tmp_path / 'out'}", **changes) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
    assert not list((tmp_path / "out").glob("restoration*"))
