"""What a kernel does before it goes: the run's state is saved, if there is time.

A front end that shuts a kernel down gives it some five seconds; batch systems and cloud
machines send SIGTERM and wait longer. The run takes a checkpoint at its next top of a
round, and is left where it is: the next kernel goes on with it.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from gpurescue.events import Event, JobSuspended
from gpurescue.magics.session import Job, Session
from gpurescue.recovery import own
from gpurescue.recovery.engine import State
from gpurescue.recovery.plan import Restart

_PAUSE = 0.02
_RECENT = 6.0  # seconds


class Leaving:
    """Saves the run when the process is about to end.

    Args:
        session: Knows the run that is alive.
        grace: Gives the seconds that this may take.
    """

    def __init__(self, session: Session, grace: Callable[[], float]) -> None:
        self._session = session
        self._grace = grace
        self._has_saved = False
        self._suspended = -math.inf
        self._unsubscribe = session.bus.subscribe(self._happened)
        self._is_open = True
        # Not by atexit: thread pools take no more work then. The last of these that
        # was registered is called first, and concurrent.futures has its own.
        threading._register_atexit(self._exiting)  # type: ignore[attr-defined]
        self._is_handling = _is_main_thread() and (
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._is_handling:
            signal.signal(signal.SIGTERM, self._terminated)

    def close(self) -> None:
        """Do nothing of that any more."""
        self._unsubscribe()
        self._is_open = False
        if self._is_handling and signal.getsignal(signal.SIGTERM) == self._terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _exiting(self) -> None:
        if self._is_open:
            self.save()

    def save(self) -> bool:
        """Have the run that is running take a checkpoint; True if it is on the disk."""
        if self._has_saved:
            return False
        self._has_saved = True
        with own.harmless("The run is not saved before the kernel goes."):
            return self._save()
        return False

    def _save(self) -> bool:
        job = self._session.alive
        if job is None or job.regular is None:
            return False
        until = time.monotonic() + self._grace()
        if job.run.state is State.RUNNING:  # if it is paused from now on, then by this
            self._suspended = math.inf
        if not self._is_awake(job):
            return False
        job.regular.want()
        while job.regular.is_behind and time.monotonic() < until:
            if not self._is_awake(job):
                break
            time.sleep(_PAUSE)
        return not job.regular.is_behind

    def _is_awake(self, job: Job) -> bool:
        """True for a run that goes on.

        A front end interrupts the kernel first. That has paused the run, or does so at
        its next statement; it is woken again.
        """
        if job.run.state is not State.SUSPENDED:
            return job.run.state is State.RUNNING
        held = job.run.suspension
        is_recent = time.monotonic() - self._suspended < _RECENT
        if held is None or not held.is_paused or not is_recent:
            return False
        job.run.resume(Restart())
        return True

    def _happened(self, event: Event) -> None:
        if isinstance(event, JobSuspended):
            self._suspended = time.monotonic()

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self.save()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
