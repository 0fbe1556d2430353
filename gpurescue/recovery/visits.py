"""Runs that are seen by who watches them although no loop of theirs is counted.

The clock counts the two outermost ``for`` loops, and has a run seen at their tops. In a
``while``, or in a third loop inside of these, nobody comes by for long. So a thread
looks, now and then, whether somebody wants to see the run in vain; then the next round
of such a loop is shown by a line trace, which costs nothing at any other time.
"""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType

from gpurescue.protocols import Watcher
from gpurescue.recovery import own
from gpurescue.recovery.engine import Run, State

TICK = 0.5  # seconds
_MANY = 8  # visits for nothing, after which they become rare
_RAREST = 32.0  # seconds from one to the next


class Visits:
    """Passes on what the clock shows, and has the run shown where that is not enough.

    Args:
        run: The run.
        watcher: Who wants to see it.
    """

    def __init__(self, run: Run, watcher: Watcher) -> None:
        self._run = run
        self._watcher = watcher
        self._seen = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name="gpurescue-visits", daemon=True
        )

    def start(self) -> None:
        """Begin; ``close`` ends it."""
        self._run.clock.watcher = self
        self._thread.start()

    def close(self) -> None:
        """The run is over."""
        self._is_over.set()

    def wants(self) -> bool:
        """As the watcher says."""
        return self._watcher.wants()

    def look(self, frame: FrameType, num_rounds: int) -> float:
        """The run stands at the top of a round."""
        try:
            return self._watcher.look(frame, num_rounds)
        finally:
            self._seen = time.monotonic()

    def _work(self) -> None:
        num, wait = 0, TICK
        while not self._is_over.wait(wait):
            with own.harmless("A run in an uncounted loop is not seen."):
                num = num + 1 if self._visit() else 0
            wait = min(TICK * 2.0 ** max(0, num - _MANY), _RAREST)

    def _visit(self) -> bool:
        """Have the run shown, if somebody wants that in vain; True if so."""
        is_running = self._run.state is State.RUNNING
        if not is_running or not self._watcher.wants():
            return False
        if time.monotonic() - self._seen >= TICK and not self._is_traced():
            self._run.show(self._show)
        return True

    def _is_traced(self) -> bool:
        """True if somebody else's trace is there, such as a debugger's.

        To reach the thread would take it away, on CPython 3.11.
        """
        frame = sys._current_frames().get(self._run.thread_id or 0)
        while frame is not None and frame.f_trace is None:
            frame = frame.f_back
        return frame is not None or threading.gettrace() is not None

    def _show(self, frame: FrameType) -> bool:
        self.look(frame, self._run.clock.num_rounds)
        return True
