"""What a failed call into torch had half done, read off its dead frames.

A statement that failed runs again from its beginning. What the library had done for
it by then (parameters moved, a batch drawn) must not be done twice. The frames of the
library are dead when the run is held, but for a moment they still have their
variables, and those say how far it had come.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType

from gpurescue.protocols import Rollback
from gpurescue.state.halfway import reading as steps
from gpurescue.state.loaders import reading as loaders

_log = logging.getLogger(__name__)

Dead = Sequence[TracebackType]
Reader = Callable[[Dead, BaseException], Sequence[Rollback]]

_READERS: tuple[Reader, ...] = (loaders.rollbacks, steps.rollbacks)


def rollbacks(error: BaseException, frame: FrameType) -> tuple[Rollback, ...]:
    """One for each library call that is half done, outermost first."""
    if "torch" not in sys.modules:
        return ()
    dead = dead_entries(error, frame)
    return tuple(found for read in _READERS for found in _tried(read, dead, error))


def dead_entries(error: BaseException, frame: FrameType) -> list[TracebackType]:
    """Traceback entries of what ``frame`` had called, outermost first."""
    found: list[TracebackType] = []
    entry = error.__traceback__
    while entry is not None:
        if entry.tb_frame is frame:
            found.clear()
        else:
            found.append(entry)
        entry = entry.tb_next
    return found


def _tried(read: Reader, dead: Dead, error: BaseException) -> Sequence[Rollback]:
    try:
        return read(dead, error)
    except Exception:  # noqa: BLE001 - the plan then says what begins again
        _log.warning("What had failed half-way could not be read.", exc_info=True)
        return ()
