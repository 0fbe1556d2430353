"""Checkpoints of a run at tops of its rounds, as often as their cost allows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import FrameType

from gpurescue.errors import Locked, RescueError, StoreError, Torn
from gpurescue.state.capture import State
from gpurescue.store import pressure
from gpurescue.store.checkpointer import Checkpointer
from gpurescue.store.format import Manifest
from gpurescue.store.policy import Policy, Settings

_log = logging.getLogger(__name__)
_HOPE = 60.0  # seconds
_RELIEF = 60.0  # seconds from one checkpoint for want of memory to the next
_PAUSE = 0.5  # seconds between two looks; the policy compares rounds by them

Reported = Callable[[Manifest | StoreError], None]


class Regular:
    """Takes checkpoints of one run; a ``Watcher`` of its clock.

    The store is opened by another thread when the first one is due: a run that is over
    before that leaves no folder behind.

    Args:
        opened: Makes the checkpointer, given what is to be told of each checkpoint.
        settings: How often.
        state: What a run that stands in a frame consists of; None where it could not
            go on from, unless it is told that this will have to do.

    Attributes:
        on_problem: Told once why there are no checkpoints, or no longer.
    """

    def __init__(
        self,
        opened: Callable[[Reported], Checkpointer],
        settings: Settings,
        state: Callable[[FrameType, bool], State | None],
    ) -> None:
        self.on_problem: Callable[[str], None] = _log.warning
        self.checkpointer: Checkpointer | None = None
        self.is_wanted = False
        self._opened = opened
        self._state = state
        self._policy = Policy(settings, time.monotonic())
        self._patient = 0.0  # until then nobody looks at memory
        self._hoped: float | None = None  # since when for a place to go on from
        self._opening: threading.Thread | None = None
        self._has_failed = False
        self._is_told = False
        self._is_closed = False

    def wants(self) -> bool:
        """True if a checkpoint is due that can be begun."""
        if self._has_failed:
            return False
        if self.checkpointer is not None and self.checkpointer.is_busy:
            return False
        return self.is_wanted or self._policy.is_due(time.monotonic())

    def look(self, frame: FrameType, num_rounds: int) -> float:
        """At the top of a round: take a checkpoint if one is due."""
        now = time.monotonic()
        self._policy.looked(now, num_rounds)
        if self._has_failed:
            return float("inf")
        self._look_at_memory(now)
        if self.is_wanted or self._policy.is_due(now):
            self._take(frame, now)
        return min(self._policy.seconds_left(now) or _PAUSE, _PAUSE)

    def _look_at_memory(self, now: float) -> None:
        """The last chance: who is killed for want of memory is not asked before."""
        if now < self._patient:
            return
        is_high = pressure.is_high()
        self._patient = now + (_RELIEF if is_high else 1.0)
        if is_high:
            self.want()

    @property
    def is_behind(self) -> bool:
        """True while a checkpoint that is wanted is not on the disk."""
        if self._has_failed:
            return False
        busy = self.checkpointer is None or self.checkpointer.is_busy
        return self.is_wanted or busy

    @property
    def has_begun(self) -> bool:
        """True once there is something to close."""
        return self._opening is not None

    def want(self) -> None:
        """Take one at the next top of a round, whatever it costs."""
        self.is_wanted = True

    def close(self, state: str = "closed") -> None:
        """Finish what is under way.

        Args:
            state: How the run has ended.
        """
        if self._opening is not None:
            self._opening.join()
        if self.checkpointer is not None and not self._is_closed:
            self._is_closed = True
            self.checkpointer.close(state)

    def _take(self, frame: FrameType, now: float) -> None:
        if self.checkpointer is None:
            self._open()
            return
        if self.checkpointer.is_busy:
            return
        try:
            begun, waited = time.perf_counter(), self.checkpointer.counts.waited
            state = self._state(frame, not self._may_hope(now))
            looked = time.perf_counter() - begun
            has_begun = state is not None and self.checkpointer.take(state)
        except StoreError as error:
            self._fail(str(error))
            return
        except Exception as error:  # noqa: BLE001 - the run goes on without it
            _log.warning("A checkpoint was not begun.", exc_info=True)
            kind = type(error).__name__
            self._fail(f"this run's state could not be captured: {kind}: {error}.")
            return
        if has_begun:
            self.is_wanted, self._hoped = False, None
            self._policy.began(now)
            self._policy.stalled(looked + self.checkpointer.stall)
        elif state is None or self.checkpointer.counts.waited > waited:
            self._policy.charged(time.perf_counter() - begun)  # looking costs, too

    def _may_hope(self, now: float) -> bool:
        """True for a while where a run could not go on from: others may be better."""
        if self._hoped is None:
            self._hoped = now
        return now - self._hoped < _HOPE

    def _open(self) -> None:
        if self._opening is None:
            self._opening = threading.Thread(
                target=self._make, name="gpurescue-store", daemon=True
            )
            self._opening.start()

    def _make(self) -> None:
        try:
            self.checkpointer = self._opened(self._done)
        except RescueError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - the run goes on without it
            _log.warning("The store was not opened.", exc_info=True)
            self._fail(str(error))

    def _done(self, done: Manifest | StoreError) -> None:
        """Called in the background."""
        self._policy.ended(time.monotonic())
        if isinstance(done, StoreError) and not isinstance(done, Torn | Locked):
            self._tell(str(done))

    def _fail(self, why: str) -> None:
        self._has_failed = True
        self._tell(why)

    def _tell(self, why: str) -> None:
        if not self._is_told:
            self._is_told = True
            self.on_problem(why)
