"""The wish of a scheduler, told by SIGTERM, that a run end soon."""

import itertools
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

_QUESTIONS = itertools.count(1)  # of this process, in all its loops


class Preemption:
    """Whether the run was asked to end; use it as a context manager, around the loop that asks.

    Among several processes one that is asked tells the others, and all of them hear of it at the same step.

    >>> import os
    >>> with Preemption() as preemption:
    ...     before = preemption.requested()
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     before, preemption.requested()
    (False, True)
    """

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._asked = False
        self._former: Any = None

    def __enter__(self) -> "Preemption":
        # JAX has a handler of its own where there are several processes. Python takes signals in its main thread only.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def requested(self) -> bool:
        """Whether to end now; all processes ask after the same steps."""
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        # They end when their count equals the one agreed on, which is the next: numbers of steps, which do not begin
        # at 1 in a run that goes on and may be several at a time, would pass it by.
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
