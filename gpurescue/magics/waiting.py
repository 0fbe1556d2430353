"""A cell waits for a run: awaiting, so that the kernel stays free, or blocking.

The run's thread never speaks to the kernel about itself: progress is drawn here, by
whoever waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator

from gpurescue.magics import rendering
from gpurescue.magics.progress import ProgressLine
from gpurescue.magics.session import Job
from gpurescue.magics.shell import Shell
from gpurescue.recovery.engine import State

_LONGEST = 0.1
_STUCK = (
    "The run has not stopped yet, it pauses when its current call returns; "
    "%resume waits for it again."
)
_WORDS = {
    State.FINISHED: "done",
    State.SUSPENDED: "suspended",
    State.FAILED: "failed",
    State.ABANDONED: "abandoned",
}


class Waiter:
    """One cell's wait for one run, until it is parked or over.

    Args:
        shell: Where the cell runs.
        job: The run.
        first: What to do as soon as the run runs.
        meanwhile: What to do again and again while it runs.
    """

    def __init__(
        self,
        shell: Shell,
        job: Job,
        *,
        first: Callable[[], None] = lambda: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.job = job
        self._first = first
        self._meanwhile = meanwhile
        self._progress = ProgressLine(shell)
        self._num_interrupts = 0
        self._began = time.monotonic()
        self._undo = contextlib.ExitStack()

    async def wait_async(self) -> None:
        """Wait and leave the kernel's loop free.

        Raises:
            KeyboardInterrupt: Interrupted twice, and the run did not answer.
        """
        with self._attached():
            while self._goes_on():
                try:
                    for pause in self._pauses():
                        await asyncio.sleep(pause)
                except asyncio.CancelledError:  # what the kernel makes of SIGINT
                    self._interrupt()

    def wait(self) -> None:
        """Wait and block.

        Raises:
            KeyboardInterrupt: As in ``wait_async``.
        """
        with self._attached():
            while self._goes_on():
                try:
                    for pause in self._pauses():
                        self.job.run.wait(pause)
                except KeyboardInterrupt:
                    self._interrupt()

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        self.job.is_attached = True
        with contextlib.ExitStack() as self._undo:
            try:
                yield
            finally:
                self.job.is_attached = False
                self._once()
        run = self.job.run
        self._progress.finish(run.clock.read(), _WORDS.get(run.state, ""))

    def _goes_on(self) -> bool:
        if self.job.run.state is not State.RUNNING:
            return False
        if self._num_interrupts > 1:
            self._progress.finish(self.job.run.clock.read(), "not stopped yet")
            raise rendering.in_one_line(KeyboardInterrupt(_STUCK))
        return True

    def _pauses(self) -> Iterator[float]:
        """How long to sleep next, for as long as the run is running.

        A twentieth of the time waited so far: what is short is answered soon, what
        is long is not disturbed.
        """
        run = self.job.run
        while run.state is State.RUNNING and self._num_interrupts < 2:
            self._progress.update(run.clock.read())
            yield min(_LONGEST, 0.001 + (time.monotonic() - self._began) / 20)
            self._once()
            self._meanwhile()

    def _once(self) -> None:
        first, self._first = self._first, lambda: None
        first()

    def _interrupt(self) -> None:
        """Pass it on to the run; the kernel itself listens for the first one only."""
        self._num_interrupts += 1
        interrupt(self.job)
        if self._num_interrupts == 1 and _is_main_thread():
            before = signal.signal(signal.SIGINT, self._interrupt_again)
            self._undo.callback(signal.signal, signal.SIGINT, before)

    def _interrupt_again(self, *_: object) -> None:
        self._num_interrupts += 1


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def interrupt(job: Job) -> None:
    """Pause the run in front of the next statement of the user's.

    Where nobody could go on from there it gets a KeyboardInterrupt, as any program.
    """
    if job.run.parks and job.run.pause():
        return
    thread = job.run.thread_id
    if thread is not None and job.run.state is State.RUNNING:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
        )
