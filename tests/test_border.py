"""Whatever is raised ends as a message and an exit code; a bug in the program keeps its traceback in a file."""

import errno
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import pytest

from score_sde import border
from score_sde.cli import main, run_script
from score_sde.errors import UserError

ROOT = Path(__file__).parents[1]
TOY = str(ROOT / "configs" / "vp" / "toy_mlp.py")


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.delenv(border.RAISE, raising=False)


def _raised(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def _of_another_platform(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    return RuntimeError("Unable to initialize backend 'cuda': no such device (you may need to uninstall something)")


# What other libraries raise for what the machine lacks: the exit code, and what must be said.
OUTSIDE = {
    "no space": (
        OSError(errno.ENOSPC, "No space left on device", "x.npz"),
        2,
        ["device: x.npz", "Free space", "from what is saved, if anything is."],
    ),
    "no right": (_raised(lambda: os.open("/proc/1/mem/x", os.O_RDONLY)), 2, ["/proc/1/mem/x"]),
    "files": (OSError(errno.EMFILE, "Too many open files"), 2, ["Too many open files", "ulimit -n"]),
    "memory": (MemoryError(), 2, ["Memory ran out (MemoryError)", "training.batch_size"]),
    "device memory": (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
        2,
        ["Memory ran out (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)", "training.accumulate"],
    ),
    "encoding": (_raised(lambda: "ü".encode("ascii")), 2, ["'ascii' codec can't encode", "LC_ALL=C.UTF-8"]),
    "package": (ModuleNotFoundError("No module named 'torch'", name="torch.nn"), 2, ["pip install torch"]),
    "peer": (
        jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:1"),
        1,
        ["Another process of this run has ended", "Gloo AllReduce failed"],
    ),
}


@pytest.mark.parametrize("case", OUTSIDE)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_the_machine_lacks_is_said_in_a_sentence(capsys, tmp_path, case, wrapped):
    error, code, parts = OUTSIDE[case]
    if wrapped:
        error = _raised(lambda: _raise(ValueError("a library gives up"), cause=error))
    assert border.ended(error, directory=tmp_path) == code
    said = capsys.readouterr().err
    assert said.startswith("score_sde: ") and said.count("\n") == 1
    assert all(part in said for part in parts), said
    assert not list(tmp_path.iterdir())


def _raise(error, cause=None):
    raise error from cause


def test_a_platform_that_is_not_there_is_named_with_its_variable(capsys, monkeypatch):
    assert border.ended(_of_another_platform(monkeypatch)) == 2
    said = capsys.readouterr().err
    assert "JAX_PLATFORMS=cuda asks for a device that cannot be used here" in said
    assert "set JAX_PLATFORMS=cpu" in said


def test_a_platform_that_jax_does_not_know_is_told_in_a_sentence(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    words = "Unable to initialize backend 'nonsense': Backend 'nonsense' is not in the list of known backends: "
    assert border.ended(RuntimeError(f"{words}['cpu', 'tpu'].")) == 2
    said = "here (Backend 'nonsense' is not in the list of known backends: ['cpu', 'tpu']). Unset JAX_PLATFORMS"
    assert said in capsys.readouterr().err


def test_no_device_at_all_is_told_as_a_device_that_is_missing(capsys, monkeypatch):
    """JAX asserts that there is one, and other assertions are faults."""
    code = compile("def find():\n    assert False", "/somewhere/jax/_src/xla_bridge.py", "exec")
    exec(code, found := {})
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert border.ended(_raised(found["find"])) == 2
    assert "JAX_PLATFORMS=cuda asks for a device that cannot be used here (JAX finds none)" in capsys.readouterr().err
    monkeypatch.setenv(border.RAISE, "1")
    with pytest.raises(AssertionError):
        border.ended(_raised(lambda: _raise(AssertionError())))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("JAX_ENABLE_X64", lambda: jax._src.config.bool_env("JAX_ENABLE_X64", False)),
        ("JAX_X", lambda: _raise(ValueError('Invalid value "perhaps" for JAX flag jax_x'))),
    ],
)
def test_a_variable_that_jax_refuses_is_named(capsys, monkeypatch, name, read):
    monkeypatch.setenv(name, "perhaps")
    assert border.ended(_raised(read)) == 2
    assert f"{name}=perhaps in the environment is refused by JAX" in capsys.readouterr().err


def test_an_exception_that_a_library_logs_before_it_raises_it_is_told_once():
    code = "import logging\nfrom score_sde.cli import _log_messages\n_log_messages()\n"
    code += "for name in ('absl', 'score_sde.training'):\n    try:\n        1 / 0\n"
    code += "    except ZeroDivisionError:\n        logging.getLogger(name).exception('%s failed', name)\n"
    code += "logging.getLogger('absl').error('said once')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "absl failed" not in done.stderr and "said once" in done.stderr
    assert "score_sde.training failed" in done.stderr and done.stderr.count("Traceback") == 1


FAULTS = [
    KeyError("ema"),
    ValueError("first line\nsecond line"),
    FileNotFoundError("without a number"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ImportError("cannot import name 'x'", name="score_sde.modes"),
    jax.errors.JaxRuntimeError("INTERNAL: something"),
    RecursionError(),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_bug_is_called_one_and_its_traceback_is_kept(capsys, tmp_path, error):
    raised = _raised(lambda: _raise(error))
    assert border.ended(raised, doing="--mode=train", directory=tmp_path) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"score_sde: --mode=train failed: {type(error).__name__}")
    assert "This is a bug in the program (score_sde 0." in said and f"jax {jax.__version__}" in said
    assert "Traceback" not in said and "second line" not in said
    (kept,) = tmp_path.iterdir()
    assert f"the traceback in {kept}." in said
    assert "in _raise\n    raise error" in kept.read_text()


def test_a_traceback_goes_where_it_can_be_written_and_is_never_lost(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert border.ended(_raised(lambda: _raise(KeyError("a"))), directory=tmp_path / "nowhere") == 1
    (kept,) = tmp_path.iterdir()
    assert str(kept) in capsys.readouterr().err
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nowhere"))
    assert border.ended(_raised(lambda: _raise(KeyError("a")))) == 1
    assert "in _raise\n    raise error" in capsys.readouterr().err


def test_a_fault_is_raised_where_that_is_asked_for_and_the_users_errors_are_not(capsys, monkeypatch):
    monkeypatch.setenv(border.RAISE, "1")
    fault = KeyError("a")
    with pytest.raises(KeyError) as raised:
        border.ended(fault)
    assert raised.value is fault
    assert border.ended(UserError("There is no such run.")) == 2
    assert border.ended(KeyboardInterrupt()) == 130


def test_a_fault_in_a_mode_and_in_a_script_ends_with_one(capsys, tmp_path, monkeypatch):
    from score_sde import modes

    monkeypatch.setitem(modes.MODES, "train", lambda *_, **__: _raise(KeyError("ema")))
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    assert main([f"--config={TOY}", f"--workdir={tmp_path}", "--mode=train"]) == 1
    said = capsys.readouterr().err
    assert "score_sde: --mode=train failed: KeyError: 'ema'" in said
    assert re.search(rf"the traceback in {tmp_path}/traceback-\S+\.txt\.", said)
    assert run_script("lineage", lambda: _raise(OSError(errno.EACCES, "Permission denied", "table.md"))) == 2
    assert capsys.readouterr().err.startswith("lineage: Permission denied: table.md. Give a place")


def test_a_broken_cache_is_warned_of_in_one_line(tmp_path):
    program = "import jax, sys\nfrom score_sde.border import guard\n"
    program += "guard(lambda: [jax.jit(lambda x: x + i)(1.0) for i in range(3)] and 0)"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def said():
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True, check=True)
        return done.stderr

    assert said() == ""
    for file in tmp_path.glob("*-cache"):
        file.write_bytes(b"no program")
    text = said()
    assert text.startswith("score_sde: warning: Error reading persistent compilation cache") and text.count("\n") == 1
    assert f"empty {tmp_path} or give another" in text


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "x"), KeyError("x")])
def test_a_thread_that_fails_says_one_line(capsys, monkeypatch, error, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)

    def fail():
        thread = threading.Thread(target=_raise, args=(error,))
        thread.start()
        thread.join()
        return 3

    assert border.guard(fail) == 3
    said = capsys.readouterr().err
    assert said.startswith("score_sde: ") and "Traceback" not in said
    fail()
    assert capsys.readouterr().err == "", "the program has ended, and what threads find closed is no fault"
