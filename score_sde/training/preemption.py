"""Requests to end a run: SIGTERM from a scheduler, or SIGINT (Ctrl-C) from the user."""

import contextlib
import itertools
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

from score_sde.signals import raised, saved_first, say

_QUESTIONS = itertools.count(1)  # the count of questions of this process, in all its loops
_HEEDED = (signal.SIGINT, signal.SIGTERM)


class Preemption:
    """Tells a loop whether the run was asked to end; use it as a context manager around the loop.

    Before the first question, while programs compile, there is nothing to save, and a signal ends the run at once. So
    does a second SIGINT. A process that receives a signal tells the others, and all of them learn of it at the same
    step.

    Attributes:
        interrupted: Whether the signal was SIGINT.

    >>> with Preemption() as preemption:
    ...     before = preemption.requested()
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     before, preemption.requested(), preemption.interrupted
    (False, True, False)
    """

    def __init__(self) -> None:
        """Start without a request."""
        self.interrupted = False
        self._asked, self._begun = False, False
        self._saving = contextlib.ExitStack()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        # Python handles signals in its main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in _HEEDED:
                # With several processes JAX has its own handler of SIGTERM; nohup ignores SIGINT.
                theirs = number == signal.SIGTERM and jax.process_count() > 1
                if not theirs and signal.getsignal(number) != signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._saving.close()

    def requested(self) -> bool:
        """Whether to end now; all processes must ask after the same steps."""
        if not self._begun:
            self._begun = True
            self._saving.enter_context(saved_first())
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        # JAX ends all processes when their count equals the agreed one, which is the next count. Step numbers would
        # skip it: they do not begin at 1 in a resumed run, and may advance by several at a time.
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._begun or (number == signal.SIGINT and self.interrupted):
            raise raised(number)
        self._asked = True
        if number == signal.SIGINT:
            self.interrupted = True
            say("interrupted; the step under way is saved first. A second time ends at once.")
            if jax.process_count() > 1:  # tells the others
                os.kill(os.getpid(), signal.SIGTERM)
