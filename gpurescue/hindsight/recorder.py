"""Records one run while it trains: what it logs, and how it fares.

The run's thread only notes a value and where it stands. A thread of the recorder's
writes all of it down, a few times a second.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import msgspec

from gpurescue.errors import RescueError, UsageError
from gpurescue.hindsight import values
from gpurescue.hindsight.journal import Journal, Row
from gpurescue.recovery import loops, own, places
from gpurescue.recovery.loops import Clock

_log = logging.getLogger(__name__)

EVERY = 0.5  # seconds from one time of writing to the next
_PATIENCE = 30.0  # seconds that a run that is over waits for its last values
_by_clock: dict[Clock, Recorder] = {}
_open: set[Recorder] = set()


class Recorder:
    """Records one run.

    Args:
        clock: Of the run.
        opened: Opens its journal; called in the recorder's thread, once. None to write
            nothing, and only say what arguments are.
        overrides: Values of arguments, by name, in the place of their defaults.
        on_problem: Told once why nothing is recorded, or no longer.

    Attributes:
        num_noted: Values that the run has logged by now.
    """

    def __init__(
        self,
        clock: Clock,
        opened: Callable[[], Journal] | None,
        overrides: Mapping[str, Any],
        on_problem: Callable[[str], None] = _log.warning,
    ) -> None:
        self._clock = clock
        self._opened = opened
        self._overrides = overrides
        self._on_problem = on_problem
        self._began = time.time()
        self.num_noted = 0
        self._rows: list[Row] = []
        self._arguments: dict[str, str] = {}
        self._patches: list[tuple[float, str, str, str]] = []
        self._journal: Journal | None = None
        self._writing = threading.Lock()
        self._is_ready = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name="gpurescue-recorder", daemon=True
        )

    def start(self) -> None:
        """Take what the run logs from now on; ``close`` ends it."""
        _by_clock[self._clock] = self
        if self._opened is not None:
            _open.add(self)
            self._thread.start()

    # -- in the run's thread

    def log(self, name: str, value: Any, frame: FrameType) -> None:
        """Note a value, and where the run stands."""
        if self._opened is None:
            return
        when = time.time() - self._began
        row = (name, values.taken(value), places.place(frame), when)
        self._rows.append(row)
        self.num_noted += 1

    def argument(self, name: str, default: Any) -> Any:
        """The value of an argument, which is noted."""
        value = self._overrides.get(name, default)
        self._arguments[name] = _as_json(value)
        return value

    def patched(self, name: str, before: str, after: str) -> None:
        """Note that a function was redefined while the run was alive."""
        self._patches.append((time.time() - self._began, name, before, after))

    def close(self, state: str) -> None:
        """Write down the rest, and how the run has ended."""
        self.stop()
        if self._opened is None:
            return
        self._thread.join(_PATIENCE)
        self._do(lambda journal: journal.end(state))
        _open.discard(self)

    def stop(self) -> None:
        """Take nothing any more; ``close`` is about to be called."""
        _by_clock.pop(self._clock, None)
        self._is_over.set()

    def settle(self) -> None:
        """Wait until all that was noted by now is written down."""
        if self._opened is None:
            return
        if self._is_over.is_set():
            end = time.monotonic() + _PATIENCE
            while self in _open and time.monotonic() < end:
                time.sleep(0.005)
        else:
            self._is_ready.wait(_PATIENCE)
            self._do(self._write)

    # -- in the background

    def _work(self) -> None:
        assert self._opened is not None
        try:
            self._journal = self._opened()
        except Exception as error:  # noqa: BLE001 - the run goes on without records
            self._give_up(error)
        self._is_ready.set()
        while not self._is_over.wait(EVERY):
            if not self._do(self._write):
                return
        self._do(self._write)

    def _write(self, journal: Journal) -> None:
        """Write down what has come since; all of it, or nothing."""
        num_rows, num_patches = len(self._rows), len(self._patches)
        arguments = dict(self._arguments)
        journal.write(self._rows[:num_rows], arguments, self._patches[:num_patches])
        del self._rows[:num_rows], self._patches[:num_patches]

    def _do(self, work: Callable[[Journal], None]) -> bool:
        """Have something written; False if that is given up."""
        with self._writing:
            if self._journal is None:
                return False
            try:
                work(self._journal)
            except Exception as error:  # noqa: BLE001
                self._give_up(error)
                return False
        return True

    def _give_up(self, error: Exception) -> None:
        """The run goes on without records; its values are not kept for nobody."""
        self._journal = None
        _by_clock.pop(self._clock, None)
        self._rows.clear()
        if not isinstance(error, RescueError):
            _log.warning("A run is not recorded.", exc_info=error)
        with contextlib.suppress(Exception):
            self._on_problem(str(error))


def _as_json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return msgspec.json.encode(repr(value)).decode()


def log(name: str, value: Any) -> Any:
    """Log a value of the run that this is called in, with where its loops stand.

    It costs some microseconds, waits for no device and draws no random number: what is
    logged is written down later, in another thread. Outside of a run, and in threads
    that a run has started, nothing is logged.

    Args:
        name: Of the column that it goes to.
        value: A number, a text, an array or a tensor of up to 16 MB, a figure of
            matplotlib, or lists and dictionaries of numbers and texts.

    Returns:
        The value, as it was given.

    Raises:
        UsageError: The name is no text.
    """
    recorder = _of_thread()
    if not isinstance(name, str) or not name:
        raise UsageError(f"A value is logged by a name, and {name!r} is none.")
    if recorder is not None:
        with own.harmless("A value is not logged."):
            recorder.log(name, value, sys._getframe(1))
    return value


def arg(name: str, default: Any) -> Any:
    """A setting of the run that this is called in, which is recorded with it.

    Args:
        name: Of the setting.
        default: Its value, if nobody has said another one.

    Returns:
        What ``%%resilient --set NAME=VALUE`` has said; else the default.
    """
    recorder = _of_thread()
    return default if recorder is None else recorder.argument(name, default)


def _of_thread() -> Recorder | None:
    clock = loops.current()
    return None if clock is None else _by_clock.get(clock)


def settle() -> None:
    """Wait until all that was logged by now is written down."""
    for recorder in list(_open):
        recorder.settle()
