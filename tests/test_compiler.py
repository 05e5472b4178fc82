"""Sums are right in every program of a process that imports the package, and XLA_FLAGS stays the user's."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jaxlib
import pytest

from score_sde import compiler
from score_sde.compiler import KEPT, OPTION, is_wrong

ROOT = Path(__file__).parents[1]
SETTING = f"--{OPTION}={KEPT}"
RIGHT = 1e-3  # of the largest value; the wrong ones are off by a tenth and more


def _run(*command, **environment):
    """The output and the warnings of a Python process on a CPU with no flags but these, which compiles as users do."""
    given = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environment
    given["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout, done.stderr


def test_every_program_of_a_process_that_imports_the_package_is_right():
    found = json.loads(_run("-m", "tests.wrong_sums", "protected")[0])
    assert {name: error for name, error in found["errors"].items() if not error < RIGHT} == {}
    assert found["flags"] == (SETTING if is_wrong(jaxlib.__version__) else "")
    assert not found["started"]  # the import leaves the backend to the user


def test_the_table_of_wrong_versions_is_right_about_this_one():
    """If this fails, correct ``compiler.WRONG``: this version of jaxlib is in it or not in it against the evidence."""
    errors = json.loads(_run("-m", "tests.wrong_sums")[0])["errors"]
    wrong = {name: error for name, error in errors.items() if not error < RIGHT}
    assert bool(wrong) == is_wrong(jaxlib.__version__), wrong


LATE = """
import os, sys, warnings
import jax, jax.numpy as jnp, numpy as np
jnp.ones(1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import score_sde
    from score_sde import distributed, sampling
for warning in caught:
    print(warning.category.__name__, os.path.basename(warning.filename), warning.message)
t = jnp.linspace(0.1, 2.0, 8192)
ours = distributed.jit(lambda t: jnp.sum(jnp.expm1(t) * jnp.expm1(2.0 * t)))(t)
exact = np.sum(np.expm1(np.asarray(t, np.float64)) * np.expm1(2.0 * np.asarray(t, np.float64)))
print(os.environ["XLA_FLAGS"], abs(ours / exact - 1.0) < 1e-5)
"""


@pytest.mark.skipif(not is_wrong(jaxlib.__version__), reason="this XLA needs no protection")
def test_an_import_after_the_first_computation_warns_once_and_leaves_our_own_programs_right():
    said, *rest = _run("-c", LATE)[0].splitlines()
    assert said.startswith("RuntimeWarning <string> XLA of jaxlib"), said
    assert "import score_sde before the first computation, or set XLA_FLAGS=" in said
    assert rest == [" True"]  # flags that nobody reads any more stay as they are


@pytest.fixture
def protected(monkeypatch):
    """The result of ``protect`` and XLA_FLAGS after it, for a process whose backend is not started."""

    def call(flags=None, *, version="0.10.2", platforms="", jax=None):
        monkeypatch.delenv("XLA_FLAGS", raising=False) if flags is None else monkeypatch.setenv("XLA_FLAGS", flags)
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setattr(compiler, "_jaxlib_version", lambda: version)
        monkeypatch.setattr(compiler, "_backend_is_started", lambda: False)
        loaded = jax and types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms=jax))
        monkeypatch.setitem(sys.modules, "jax", loaded)
        return compiler.protect.__wrapped__(), os.environ.get("XLA_FLAGS")

    return call


def test_the_option_follows_the_flags_of_the_user(protected):
    assert protected() == protected("") == (True, SETTING)
    assert protected("--xla_one=1 --xla_two") == (True, f"--xla_one=1 --xla_two {SETTING}")


@pytest.mark.parametrize(
    "own", [f"--{OPTION}=", f"--{OPTION}=-reduce --xla_one=1", f"{SETTING},LIBRARY_FUSION_TYPE_DOT"]
)
def test_an_option_that_the_user_has_set_is_left_alone(protected, own):
    assert protected(own) == (False, own)


def test_a_process_that_inherits_the_option_does_not_get_it_twice(protected):
    assert protected(f"--xla_one=1 {SETTING}", version="0.1") == (True, f"--xla_one=1 {SETTING}")


@pytest.mark.parametrize("version", ["", "0.4.30", "0.10.1", "0.99.0"])
def test_an_xla_that_is_not_known_to_be_wrong_gets_no_option(protected, version):
    assert protected("--xla_one=1", version=version) == (False, "--xla_one=1")


def test_the_option_is_set_where_programs_may_run_on_a_cpu(protected):
    assert not protected(platforms="cuda")[0]
    assert protected(platforms="cuda,cpu")[0]
    assert not protected(platforms="cpu", jax="tpu")[0]  # set since by jax.config.update


def test_flags_in_a_file_are_read_and_not_replaced(protected, tmp_path):
    file = tmp_path / "flags"
    file.write_text(f"--xla_one=1\n{SETTING}\n")
    assert protected(str(file)) == (True, str(file))
    file.write_text("--xla_one=1\n")
    with pytest.warns(RuntimeWarning, match=f"add the option to the file {file}"):
        assert protected(str(file)) == (False, str(file))
