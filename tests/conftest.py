"""Policy for all tests: no silent broadcasting, several host devices, slow and long tests on request.

Tests come in three lengths. What has no mark runs always. ``slow`` tests take seconds each, and so do the cases that a
``sweep`` leaves out; ``long`` tests take minutes. ``--slow`` runs everything, ``--slow -m "not long"`` leaves the long
ones out, and ``.ci/run`` runs the slow ones after the others where the machine is quick enough.
"""

import functools
import gc
import itertools
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

# Two host devices make every test a multi-device test at no cost; the device tests start processes with more.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "score_sde_test_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("SCORE_SDE_TRACEBACK", "1")  # a bug fails a test with its own exception

import jax
import jaxlib
import pytest
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir

import score_sde  # noqa: F401  # adds its own flag, before any test starts the backend

# A shell has the jobs that it starts in the background ignore Ctrl-C, and what they start ignores it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")

# The older code generator of XLA:CPU compiles an operation in two thirds of the time. An unknown flag ends the process,
# and 0.12 does not know this one.
FEW_OPTIMIZATIONS = ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
# Two devices that wait 40 seconds for each other end the process, which on a busy machine means nothing.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
MEMORY = 3 * 2**30  # bytes of one worker from which it forgets its compiled programs
SHARING = 100  # programs that are lowered in one context of MLIR, which keeps their constants


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow and the long tests too")


def share_contexts():
    """JAX makes a context of MLIR for every program, which takes a quarter of the time of a small one."""
    make, programs = mlir.make_ir_context, itertools.count()
    kept = functools.lru_cache(maxsize=1)(lambda number: make())

    def shared():
        # A program that is needed while another is lowered has a context of its own, or it would become a part of it.
        return kept(next(programs) // SHARING) if ir.Context.current is None else make()

    mlir.make_ir_context = shared


def pytest_configure(config):
    """Without ``--slow`` the compiler leaves out most of its optimizations, which are half of the time of all tests."""
    gc.disable()  # until all tests are collected: imports leave little garbage
    if jaxlib.__version__.startswith("0.10."):
        os.environ["XLA_FLAGS"] += f" {PATIENCE}"
        share_contexts()
    if not config.getoption("--slow"):
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the programs that tests start
        jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0")
        if jaxlib.__version__.startswith("0.10."):
            os.environ["XLA_FLAGS"] = " ".join([os.environ["XLA_FLAGS"], *FEW_OPTIMIZATIONS])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark the cases that a sweep leaves out as slow, and skip what is slow or long without ``--slow``."""
    seen = Counter()
    for item in items:
        if sweep := item.get_closest_marker("sweep"):
            stride = sweep.args[0] if sweep.args else len(items)
            case = (item.path, item.originalname)
            if seen[case] % stride:
                item.add_marker(pytest.mark.slow)
            seen[case] += 1
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: pass --slow to run it")
    for item in items:
        if "slow" in item.keywords or "long" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish():
    """Garbage is never looked for among what is imported, and seldom elsewhere: that was a twentieth of the time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Compiled programs stay where they are, and those of all tests are gigabytes; they go once there are too many."""
    yield
    statistics = Path("/proc/self/statm")
    if statistics.is_file() and int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MEMORY:
        jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)
