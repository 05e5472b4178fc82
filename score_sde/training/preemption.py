"""The wish that a run end soon: of a scheduler, told by SIGTERM, or of the user, told by SIGINT (Ctrl-C)."""

import contextlib
import itertools
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

from score_sde.signals import raised, saved_first, say

_QUESTIONS = itertools.count(1)  # of this process, in all its loops
_HEEDED = (signal.SIGINT, signal.SIGTERM)


class Preemption:
    """Whether the run was asked to end; use it as a context manager, around the loop that asks.

    Before the first question, while programs are compiled, there is nothing to save, and a signal ends the run at once.
    So does a second SIGINT. Among several processes one that is asked tells the others, and all of them hear of it at
    the same step.

    Attributes:
        interrupted: Whether it was SIGINT.

    >>> with Preemption() as preemption:
    ...     before = preemption.requested()
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     before, preemption.requested(), preemption.interrupted
    (False, True, False)
    """

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.interrupted = False
        self._asked, self._begun = False, False
        self._saving = contextlib.ExitStack()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        # Python takes signals in its main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in _HEEDED:
                # JAX has a handler of its own for SIGTERM where there are several processes; nohup ignores SIGINT.
                theirs = number == signal.SIGTERM and jax.process_count() > 1
                if not theirs and signal.getsignal(number) != signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._saving.close()

    def requested(self) -> bool:
        """Whether to end now; all processes ask after the same steps."""
        if not self._begun:
            self._begun = True
            self._saving.enter_context(saved_first())
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        # They end when their count equals the one agreed on, which is the next: numbers of steps, which do not begin
        # at 1 in a run that goes on and may be several at a time, would pass it by.
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._begun or (number == signal.SIGINT and self.interrupted):
            raise raised(number)
        self._asked = True
        if number == signal.SIGINT:
            self.interrupted = True
            say("interrupted; the step under way is saved first. A second time ends at once.")
            if jax.process_count() > 1:  # the way to tell the others
                os.kill(os.getpid(), signal.SIGTERM)
