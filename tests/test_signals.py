"""Signals end the program in a line: by an exception, or at once where the main thread does not get to hear of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from score_sde.errors import Terminated
from score_sde.signals import PATIENCE_SECONDS, heeded
from tests.training.test_resume import ROOT

# A call of a C library that nothing interrupts, as compiling a network is.
STUCK = """
import contextlib, hashlib, sys, threading
from score_sde.signals import heeded, saved_first
with heeded(), saved_first() if sys.argv[1] == "saves" else contextlib.nullcontext():
    threading.Timer(0.5, print, ["ready"], {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("how", "numbers", "code"),
    [
        ("waits", [signal.SIGTERM], 143),
        ("waits", [signal.SIGINT], 130),
        ("saves", [signal.SIGINT, signal.SIGINT], 130),
        ("saves", [signal.SIGTERM, signal.SIGTERM], None),  # schedulers may say it twice
    ],
)
def test_a_program_that_is_compiling_ends_within_seconds(how, numbers, code):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, how], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)  # two of one kind that come together are one
        if code is None:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            return
        assert process.wait(60) == code
        word = "interrupted" if code == 130 else "told to end"
        assert (
            process.stderr.read()
            == f"score_sde: {word}; the same command goes on from what is saved, if anything is.\n"
        )
    finally:
        process.kill()
        process.communicate()


# Python writes an exception of a finalizer to standard error, and drops it.
SWALLOWED = """
import os, signal, sys, time
from score_sde.signals import heeded
class Busy:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(5)
with heeded():
    busy = Busy()
    del busy
    for _ in range(600):
        time.sleep(0.1)
print("lost")
"""


@pytest.mark.sweep
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_a_finalizer_runs_is_not_lost(number):
    program = [sys.executable, "-c", SWALLOWED, number.name]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (128 + number, "")
    assert "Exception ignored" in ended.stderr
    assert ended.stderr.endswith("the same command goes on from what is saved, if anything is.\n")


@pytest.mark.slow
def test_a_program_that_takes_its_time_on_its_way_out_is_let_go():
    before = threading.active_count()
    with pytest.raises(Terminated), heeded():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            time.sleep(2.5 * PATIENCE_SECONDS)
    assert threading.active_count() == before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_elsewhere_a_signal_is_an_exception_and_afterwards_what_it_was(number, kind):
    before = [signal.getsignal(number), threading.active_count()]
    with pytest.raises(KeyboardInterrupt) as raised, heeded():
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert type(raised.value) is kind
    assert [signal.getsignal(number), threading.active_count()] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_what_a_process_was_started_to_ignore_and_what_others_look_after_is_left_alone():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        term = signal.getsignal(signal.SIGTERM)
        with heeded(keep=[signal.SIGTERM]):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is term
    finally:
        signal.signal(signal.SIGINT, former)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(heeded().__enter__()))
    thread.start()
    thread.join()
    assert seen == [None] and signal.getsignal(signal.SIGTERM) is term
