"""Policy for all tests: no silent broadcasting, several host devices, slow tests on request."""

import os
import signal
import tempfile
from pathlib import Path

# Two host devices make every test a multi-device test at no cost; the device tests start processes with more.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "score_sde_test_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("SCORE_SDE_TRACEBACK", "1")  # a bug fails a test with its own exception

import jax
import pytest

import score_sde  # noqa: F401  # adds its own flag, before any test starts the backend

# A shell has the jobs that it starts in the background ignore Ctrl-C, and what they start ignores it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")

MEMORY = 3 * 2**30  # bytes of one worker from which it forgets its compiled programs


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: pass --slow to run it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


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
