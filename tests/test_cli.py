"""Bad input ends with exit code 2 and a sentence: what was given, what was expected, what to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from score_sde.cli import MODES, _parse, main, run_script
from score_sde.errors import Preempted, Terminated, UserError
from score_sde.modes import MODES as RUN
from tests.scripts import programs

ROOT = Path(__file__).parents[1]
TOY = "configs/vp/toy_mlp.py"
DIGITS = "configs/vp/digits_ddpmpp.py"
GOES_ON = "the same command goes on from what is saved"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must fail as the user's error, and returns what it said."""

    def run(*overrides, config=TOY, mode="train", workdir=tmp_path / "run"):
        arguments = [f"--config={config}", f"--workdir={workdir}", f"--mode={mode}"]
        code = main([*arguments, *(f"--config.{override}" for override in overrides)])
        captured = capsys.readouterr()
        assert code == 2
        assert captured.err.startswith("score_sde: ")
        assert "Traceback" not in captured.out + captured.err
        return captured.err

    return run


def _recorded_run(workdir, **changes):
    """A working directory that looks like that of a run which has not saved a checkpoint yet."""
    from score_sde.cli import load_config

    workdir.mkdir()
    config = load_config(Path(TOY), [f"--config.{name}={value}" for name, value in changes.items()])
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    return workdir


# An override, and what the message must contain: the list of names and the nearest one.
MISSPELT = {
    "training.num_stepz=3": ["Unknown config field 'training.num_stepz'", "Did you mean 'training.num_steps'?"],
    "sde.name=subpv": ["config.sde.name is 'subpv'", "Did you mean 'subvp'?", "one of vp, subvp, ve, "],
    "data.name=toy:moon": ["config.data.name is 'toy:moon'", "Did you mean 'toy:moons'?", "toy:gaussians"],
    "data.name=digit": ["config.data.name is 'digit'", "Did you mean 'digits'?", "cifar10", "folder:..."],
    "sampling.predictor=hein": ["predictor is 'hein'", "Did you mean 'heun'?", "adaptive", "euler_maruyama"],
    "sampling.corrector=langevine": ["corrector is 'langevine'", "Did you mean 'langevin'?", "none"],
    "model.name=mlpp": ["config.model.name is 'mlpp'", "Did you mean 'mlp'?", "ncsnpp, ddpm, edm2, ncsn,"],
    "parameterization.output=noize": ["parameterization.output is 'noize'", "Did you mean 'noise'?", "edm"],
}


@pytest.mark.parametrize("override", MISSPELT)
def test_a_misspelt_name_is_answered_with_the_nearest_one(refused, override, tmp_path):
    message = refused(override)
    assert all(part in message for part in MISSPELT[override]), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.num_steps=many", ["config.training.num_steps is 'many'", "expected an integer from 1 to"]),
        ("training.num_steps=1.5", ["config.training.num_steps is '1.5'", "expected an integer from 1 to"]),
        ("optim.lr=fast", ["config.optim.lr is 'fast'", "a number from"]),
        ("training.num_steps", ["has no value", "--config.training.num_steps=VALUE", "6000"]),
        ("training=3", ["Unknown config field 'training'"]),
        ("optim.lr=-1", ["config.optim.lr is -1", "0, or a number from"]),
    ],
)
def test_an_override_of_the_wrong_type_says_what_was_expected(refused, override, parts):
    message = refused(override)
    assert all(part in message for part in parts), message


def test_an_override_changes_its_field_and_no_other():
    from score_sde.cli import load_config
    from score_sde.config import differing_fields

    overrides = ["--config.optim.lr=1", "--config.model.channel_multipliers=(1,2,3)", "--config.data.centered=false"]
    before, after = load_config(Path(TOY), []), load_config(Path(TOY), overrides)
    assert differing_fields(before.to_dict(), after.to_dict()) == [
        "data.centered: True -> False",
        "model.channel_multipliers: (1, 2, 2, 2) -> (1, 2, 3)",
        "optim.lr: 0.001 -> 1.0",
    ]


def test_an_unknown_mode_is_answered_with_the_nearest_one(refused):
    message = refused(mode="trian")
    assert "Unknown mode 'trian'. Did you mean 'train'?" in message
    assert all(mode in message for mode in MODES)


def test_the_modes_that_help_lists_are_those_that_run():
    assert list(MODES) == list(RUN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--mode=train", f"--config={TOY}", "--checkpoint=x"],
            "--checkpoint is for --mode=import and --mode=reproduce",
        ),
        (["--mode=train", f"--config={TOY}", "--row=digits/vp"], "as --row=NAME, and no other mode takes one"),
        (["--mode=train", f"--config={TOY}", "--compare=x"], "--compare=DIR is for --mode=report"),
        (["--mode=report", f"--config={TOY}"], "conformance, reproduce, report, which take none"),
        (["--mode=stats"], "whose configuration could be taken; give --config=FILE"),
        (["--mode=report"], "There is no run in"),
    ],
)
def test_a_flag_that_a_mode_does_not_take_or_lacks_is_named(capsys, tmp_path, arguments, message):
    assert main([f"--workdir={tmp_path}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_other_runs_of_a_report_are_looked_for(capsys, tmp_path):
    run = _recorded_run(tmp_path / "run")
    assert main([f"--workdir={run}", "--mode=report", f"--compare={run},{tmp_path / 'nowhere'}"]) == 2
    assert f"There is no directory {tmp_path / 'nowhere'} to report on" in capsys.readouterr().err


def test_a_value_may_stand_behind_a_space(capsys, tmp_path):
    flags = ["--config", TOY, "--workdir", str(tmp_path), "--mode", "train"]
    options, overrides = _parse(
        [*flags, "--config.optim.lr", "-1", "--config.seed=3", "--config.data.name", "toy:moons"]
    )
    assert (options.config, options.workdir, options.mode) == (TOY, str(tmp_path), "train")
    assert overrides == ["--config.optim.lr=-1", "--config.seed=3", "--config.data.name=toy:moons"]


def test_of_two_values_none_is_dropped_in_silence(capsys, caplog):
    flags = [f"--config={TOY}", "--workdir=x", "--mode=train"]
    assert main([*flags, "--workdir=y"]) == 2
    assert "--workdir is given twice, as x and as y" in capsys.readouterr().err
    assert _parse([*flags, "--mode=train"])[0].mode == "train"
    assert not caplog.records
    _parse([*flags, "--config.seed=1", "--config.seed=2"])
    assert "--config.seed is given twice, as 1 and as 2; the last one counts." in caplog.text


@pytest.mark.parametrize(
    ("argument", "meant"),
    [("--workdri=x", "--workdir"), ("--training.num_steps=3", "--config.training.num_steps"), ("--moed", "--mode")],
)
def test_an_unknown_flag_is_answered_with_the_nearest_one(capsys, argument, meant):
    assert main([f"--config={TOY}", "--workdir=x", "--mode=train", argument]) == 2
    assert f"Unknown argument {argument}. Did you mean " in (said := capsys.readouterr().err)
    assert meant in said


def test_an_argument_that_is_no_override_is_refused(capsys):
    assert main([f"--config={TOY}", "--workdir=x", "--mode=train", "--lr=1"]) == 2
    message = capsys.readouterr().err
    assert (
        "Unknown argument --lr=1. Did you mean --config.classifier.lr or --config.dequantizer.lr or --config.optim.lr?"
        in message
    )
    assert "Overrides look like --config." in message


def test_a_missing_required_flag_is_named(capsys):
    assert main([f"--config={TOY}", "--mode=train"]) == 2
    assert "arguments are required: --workdir" in capsys.readouterr().err


def test_a_missing_config_file_is_answered_with_the_nearest_one(refused):
    message = refused(config="configs/vp/toy_mpl.py")
    assert "There is no config file configs/vp/toy_mpl.py. Did you mean 'configs/vp/toy_mlp.py'?" in message
    assert "There is no config file nowhere/x.py." in refused(config="nowhere/x.py")


def test_the_record_of_a_run_is_a_configuration(tmp_path):
    from score_sde.cli import load_config

    changed = ["--config.model.attention_resolutions=(4,)", "--config.sampling.churn_max=1e30", "--config.sde.name=ve"]
    config = load_config(ROOT / DIGITS, changed)
    record = tmp_path / "config.json"
    record.write_text(json.dumps(config.to_dict()))
    again = load_config(record, ["--config.seed=7"])
    assert again.seed == 7
    assert again.to_dict() | {"seed": config.seed} == config.to_dict()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "cannot be read (Expecting property name"),
        ("[]", "cannot be read (it is JSON, but no object); expected the config.json of a run"),
        ('{"seed": ' + "[" * 100_000, "cannot be read (it is nested too deeply)"),
        ('{"training": {"num_stepz": 3}}', "Unknown config field 'training.num_stepz'"),
        ('{"training": {"num_steps": "many"}}', "config.training.num_steps is 'many'; expected an integer"),
        ('{"seed": null}', "config.seed is None; expected an integer"),
    ],
)
def test_a_broken_record_is_refused(refused, tmp_path, content, part):
    record = tmp_path / "config.json"
    record.write_text(content)
    assert part in refused(config=record)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("def get_config():\n    return 1 / 0\n", ["ZeroDivisionError: division by zero"]),
        ("x = 1\n", ["get_config"]),
        ("def get_config(:\n", ["SyntaxError"]),
        ("def get_config():\n    return {}\n", ["returns a dict; expected a ConfigDict"]),
        (
            "from score_sde.config import default_config\n\ndef get_config():\n"
            "    config = default_config()\n    config.optim.learning_rate = 1.0\n    return config\n",
            ["learning_rate"],
        ),
    ],
    ids=["raises", "no get_config", "no Python", "another type", "unknown field"],
)
def test_a_config_file_that_fails_is_named_with_its_error(refused, tmp_path, content, parts):
    file = tmp_path / "mine.py"
    file.write_text(content)
    message = refused(config=file)
    assert str(file) in message
    assert all(part in message for part in parts), message


def test_a_config_that_is_no_python_file_is_refused(refused, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: 1\n")
    assert "is not a Python file; expected one that defines get_config()" in refused(config=file)


@pytest.mark.parametrize("mode", ["sample", "likelihood", "eval"])
def test_a_mode_that_needs_a_model_says_to_train_first(refused, mode, tmp_path):
    assert "train one there first with --mode=train" in refused(mode=mode)
    workdir = _recorded_run(tmp_path / "begun")
    assert "train one there first with --mode=train" in refused(mode=mode, workdir=workdir)
    (workdir / "checkpoints").mkdir()
    assert "train first with --mode=train" in refused(mode=mode, workdir=workdir)


def test_a_config_that_differs_from_that_of_the_run_is_refused_field_by_field(refused, tmp_path):
    workdir = _recorded_run(tmp_path / "begun")
    message = refused("optim.lr=0.1", "model.features=8", "sampling.num_steps=3", workdir=workdir)
    assert f"differs from that of the run in {workdir}" in message
    assert "optim.lr: 0.001 -> 0.1" in message and "model.features: 128 -> 8" in message
    assert "sampling" not in message
    assert "give another --workdir" in message
    assert "optim.lr: 0.001 -> 0.1" in refused("optim.lr=0.1", mode="train_dequantizer", workdir=workdir)
    assert "objective.t_min: 1e-05 -> 0.001" in refused("objective.t_min=0.001", mode="eval", workdir=workdir)
    for mode in (
        "sample",
        "likelihood",
        "eval",
        "export",
        "latents",
        "pareto",
        "restore",
        "classify",
        "train_dequantizer",
    ):
        assert "model.features: 128 -> 8" in refused("model.features=8", mode=mode, workdir=workdir)


@pytest.mark.parametrize(
    "override",
    [
        *("sampling.num_steps=3", "likelihood.batch_size=2", "training.num_steps=9000", "seed=3", "optim.lr=0.1"),
        *("objective.t_min=0.001", "training.batch_size=4", "data.name=toy:rings"),
    ],
)
def test_what_does_not_touch_the_trained_model_may_change(refused, tmp_path, override):
    workdir = _recorded_run(tmp_path / "begun")
    assert "train one there first" in refused(override, mode="sample", workdir=workdir)


def test_the_length_of_a_run_may_not_change_under_a_cosine_schedule(refused, tmp_path):
    workdir = _recorded_run(tmp_path / "begun", **{"optim.schedule": "cosine"})
    message = refused("optim.schedule=cosine", "training.num_steps=9000", workdir=workdir)
    assert "training.num_steps: 6000 -> 9000" in message


def test_a_damaged_record_of_the_config_is_named(refused, tmp_path):
    workdir = _recorded_run(tmp_path / "begun")
    (workdir / "config.json").write_text('{"seed": ')
    assert f"{workdir / 'config.json'} cannot be read" in refused(workdir=workdir)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused_with_one_that_does(refused):
    message = refused("training.batch_size=7")
    assert "The batch size is 7 and there are 2 devices; expected a multiple of 2, such as 6." in message


def test_a_missing_or_empty_image_folder_is_named(refused, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no such folder" in refused(f"data.name=folder:{tmp_path / 'none'}", config=DIGITS)
    message = refused(f"data.name=folder:{empty}", config=DIGITS)
    assert f"folder:{empty} holds no images, expected files ending in" in message


def test_a_workdir_that_cannot_be_made_is_refused_before_training(refused, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(workdir=tmp_path / "file" / "run")
    assert "Cannot" in message and str(tmp_path / "file" / "run") in message and "give another" in message
    assert "Cannot" in refused(workdir=tmp_path / "file")


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "score_sde", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_help_is_fast_and_lists_modes_and_examples():
    start = time.perf_counter()
    done = _run("--help")
    assert time.perf_counter() - start < 3.0
    assert done.returncode == 0 and not done.stderr
    assert all(text in done.stdout for text in (*MODES, "--config.a.b=VALUE", "examples:", TOY.split("/")[0]))


def test_the_program_ends_with_two_and_no_traceback_for_an_error_of_the_user(tmp_path):
    done = _run(f"--config={TOY}", f"--workdir={tmp_path}", "--mode=train", "--config.sde.name=vpp")
    assert done.returncode == 2
    assert done.stderr.startswith("score_sde: config.sde.name is 'vpp'; expected one of vp, subvp, ve, ")
    assert done.stderr.endswith("Did you mean 'vp'?\n") and done.stderr.count("\n") == 1


def test_help_does_not_load_jax():
    code = "import sys\nfrom score_sde.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    done = _python(code + "assert not {'jax', 'flax', 'numpy', 'ml_collections'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_a_chain_of_too_few_levels_is_refused(refused):
    message = refused("sde.schedule=linear", "parameterization.num_scales=10")
    assert "variance 2; expected less than 1" in message


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UserError("There is no such run."), 2, "lineage: There is no such run.\n"),
        (Preempted("saved."), 0, "lineage: saved.\n"),
        (Preempted("saved.", code=130), 130, "lineage: saved.\n"),
        (KeyboardInterrupt(), 130, f"lineage: interrupted; {GOES_ON}, if anything is.\n"),
        (Terminated(), 143, f"lineage: told to end; {GOES_ON}, if anything is.\n"),
    ],
)
def test_a_script_ends_as_the_command_line_does(capsys, monkeypatch, error, code, said):
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)  # it would take the log away from other tests

    def action():
        if error is not None:
            raise error

    assert run_script("lineage", action) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("program", programs(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_program_of_experiments_ends_as_the_command_line_does(program):
    assert "sys.exit(run_script(" in program.read_text().partition("__main__")[2]
