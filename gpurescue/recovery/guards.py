"""What a guard calls when it has caught something.

Guarded code finds this module in ``sys.modules`` and not by an import, so it costs
nothing, and works, where gpurescue was never loaded. Outside the thread of a run the
answer is always None: the exception goes on, untouched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any, Protocol

from gpurescue.recovery import frames, handlers, own
from gpurescue.recovery.continuation import Continuation, HandBack, Leave
from gpurescue.recovery.switch import Switch
from gpurescue.source.remainder import BOX

_log = logging.getLogger(__name__)

_NEAR = 100  # frames in which a function that calls itself shows up again

STRICT = False  # True under test: our own failures are raised


class Catcher(Protocol):
    """The run of a thread.

    Attributes:
        origin: The user's exception that the run was held by last.
    """

    origin: BaseException | None

    def caught(
        self,
        frame: FrameType,
        block: int,
        holder: FunctionType | None,
        error: BaseException,
    ) -> Continuation | None:
        """Go on with the result, or let the exception go on if it is None."""
        ...

    def failed(self, frame: FrameType, error: BaseException) -> bool:
        """Ask the library's iterator again whose ``__next__`` this is, if True."""
        ...


_runs: dict[int, tuple[Catcher, int]] = {}


def enter(run: Catcher) -> None:
    """Make ``run`` the one that this thread's guards answer to."""
    _runs[threading.get_ident()] = run, os.getpid()


def leave() -> None:
    """End what ``enter`` began."""
    _runs.pop(threading.get_ident(), None)
    with own.harmless("What was judged last in this thread is remembered."):
        own.nothing_sent_back()
        handlers.forget()


def _run() -> Catcher | None:
    """The run of this thread; a process that was forked from it has none."""
    found = _runs.get(threading.get_ident())
    return None if found is None or found[1] != os.getpid() else found[0]


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """In the block, guards of the calling thread let everything pass."""
    run = _runs.pop(threading.get_ident(), None)
    try:
        yield
    finally:
        if run is not None:
            _runs[threading.get_ident()] = run


def caught(block: int, holder: FunctionType | None = None) -> Continuation | None:
    """Called by the guard of a block, inside its ``except``."""
    run = _run()
    if run is None:
        return None
    return _safely(_caught, run, sys._getframe(1), block, holder)


def caught_last(block: int, holder: FunctionType | None = None) -> Continuation | None:
    """The same for a function's whole body: what it lets go leaves the frame."""
    run, frame = _run(), sys._getframe(1)
    if run is None:
        frames.show_line_of(sys.exception(), frame)
        return None
    return _safely(_caught_last, run, frame, block, holder)


def _caught(
    run: Catcher, frame: FrameType, block: int, holder: FunctionType | None
) -> Continuation | None:
    error = sys.exception()
    if error is None or handlers.is_on_course(error, frame):
        return None
    if _recurs(frame) or _is_importing(frame):
        return None
    with frames.showing_line_of(error, frame):
        return run.caught(frame, block, holder, error)


def _caught_last(
    run: Catcher, frame: FrameType, block: int, holder: FunctionType | None
) -> Continuation | None:
    error = sys.exception()
    if error is not None and handlers.is_on_course(error, frame):
        frames.show_line_of(error, frame)
        _hand_back(frame)
        return None
    if error is None or _recurs(frame) or _is_importing(frame):
        frames.show_line_of(error, frame)
        return None
    with frames.showing_line_of(error, frame) as shown:
        found = _safely(run.caught, frame, block, holder, error)
        shown.is_kept = found is None
    if found is None:
        _hand_back(frame)
    return found


caught_body = caught_last


def failed() -> bool:
    """Called where a library's iterator has failed: True to ask it again."""
    run = _run()
    error, frame = sys.exception(), sys._getframe(1)
    if run is None or error is None or _recurs(frame) or _is_importing(frame):
        return False
    try:
        return run.failed(frame, error)
    except Exception:
        _log.exception("Rescue failed; the exception is passed on.")
        if STRICT:
            raise
        return False


def _recurs(frame: FrameType) -> bool:
    """True inside a recursion that has gone too deep: only its caller is held.

    In there is no room to work, and a thousand frames would each ask.
    """
    if not isinstance(sys.exception(), RecursionError):
        return False
    code, outer = frame.f_code, frame.f_back
    for _ in range(_NEAR):
        if outer is None:
            return False
        if outer.f_code is code:
            return True
        outer = outer.f_back
    return False


def _is_importing(frame: FrameType) -> bool:
    """True for an error inside an import: the statement that imports is held.

    Not for a signal of ours, which has its frame already.
    """
    return isinstance(sys.exception(), Exception) and frames.is_importing(frame)


def _safely(
    answer: Callable[..., Continuation | None], *given: Any
) -> Continuation | None:
    """The answer; what fails in it is logged, and the user's own exception goes on.

    Never make it worse: as without us. Where a signal of ours was caught, nobody must
    see that; then the exception that the run was held by is raised again.
    """
    try:
        return answer(*given)
    except Exception:
        _log.exception("Rescue failed; the exception is passed on.")
        if STRICT:
            raise
    run = _run()
    is_signal = isinstance(sys.exception(), Leave | Switch)
    if not is_signal or run is None or run.origin is None:
        return None
    return HandBack(own.sent_back(run.origin))


def passed() -> None:
    """Called when a continuation was left by an exception.

    The frame that waits for it is the same call as the continuation's, so its own line
    is taken out of the traceback.
    """
    error = sys.exception()
    if error is None or error.__traceback__ is None:
        return
    with own.harmless("A traceback shows a frame of ours, or a variable is lost."):
        error.__traceback__ = frames.without_ours(error.__traceback__.tb_next)
        _hand_back(sys._getframe(1))


def _hand_back(frame: FrameType) -> None:
    """An exception leaves the rest of a block: its variables go back, too."""
    if BOX in frame.f_code.co_varnames:
        box = frames.hidden(frame, BOX)
        if isinstance(box, Continuation):
            box.write_back(frame)
