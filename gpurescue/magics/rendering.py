"""How errors look in a cell: ours in one sentence, the user's as in any other cell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from traceback import format_exception
from types import FrameType, TracebackType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from gpurescue.errors import RescueError, Suspended
from gpurescue.recovery import frames
from gpurescue.recovery.suspension import Suspension

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_LONGEST = 200


@contextlib.contextmanager
def in_one_sentence(ip: InteractiveShell | None = None) -> Iterator[None]:
    """Errors of ours that leave the block are shown as one line.

    With ``ip``, a body that does not parse is shown as a cell that does not parse.
    """
    try:
        yield
    except Suspended:
        raise
    except RescueError as error:
        in_one_line(error)
        raise
    except SyntaxError as error:
        if ip is None or hasattr(error, "_render_traceback_"):
            raise  # from running code
        raise _stand_in(error, partial(_unparsed, ip, error)) from None
    except (StopIteration, BaseExceptionGroup) as error:
        if ip is None:
            raise
        traceback = frames.without_ours(error.__traceback__)
        raise _stand_in(error, partial(_shown, ip, error, traceback)) from None


def _stand_in(error: BaseException, render: Callable[[], list[str]]) -> Exception:
    """What only has the name and message of ``error``, and is shown as it.

    For those that cannot be raised as they are: a StopIteration cannot leave a
    coroutine, and IPython shows the frames that a SyntaxError or a group came
    through, which are ours.
    """
    hidden = {"__context__": None}  # IPython looks for groups there, too
    made: Exception = type(type(error).__name__, (Exception,), hidden)(str(error))
    made._render_traceback_ = render  # type: ignore[attr-defined]
    return made


def _unparsed(ip: InteractiveShell, error: SyntaxError) -> list[str]:
    nothing: Any = []
    return ip.SyntaxTB.structured_traceback(type(error), error, nothing)


def in_one_line(error: BaseException) -> BaseException:
    """``error`` itself, to be raised: shown without a traceback."""
    line = f"{_BOLD}{type(error).__name__}{_PLAIN}: {error}"
    error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
    return error


def as_in_a_cell(ip: InteractiveShell, error: BaseException) -> BaseException:
    """The user's own exception, to be raised: shown with the user's frames only.

    Raising it through our code adds our frames to its traceback. They are taken out
    again when the shell renders it, which is also when they are all there.
    """
    traceback = error.__traceback__
    if hasattr(type(error), "_render_traceback_"):
        return error

    def render() -> list[str]:
        with contextlib.suppress(AttributeError):
            del error._render_traceback_  # type: ignore[attr-defined]
        error.__traceback__ = traceback
        return _shown(ip, error, traceback)

    with contextlib.suppress(AttributeError):
        error._render_traceback_ = render  # type: ignore[attr-defined]
    return error


def _shown(
    ip: InteractiveShell, error: BaseException, traceback: TracebackType | None
) -> list[str]:
    remember(ip, error, traceback)
    if isinstance(error, BaseExceptionGroup):
        lines = format_exception(type(error), error, traceback)
        return "".join(lines).splitlines()
    found: list[str] = ip.InteractiveTB.structured_traceback(
        type(error), error, traceback, tb_offset=0
    )
    return found


def remember(
    ip: InteractiveShell, error: BaseException, traceback: TracebackType | None
) -> None:
    """Make ``error`` the one that ``%debug`` and ``%tb`` mean."""
    sys.last_type, sys.last_value = type(error), error
    sys.last_traceback = traceback
    sys.last_exc = error  # type: ignore[attr-defined]
    ip.InteractiveTB.tb = traceback


class Parked:
    """A suspension on show: ``%debug`` and ``%tb`` enter the live frames.

    The exception's own traceback ends at the guard that caught it. While the run is
    parked it is led through the live frames around; ``take_back`` undoes that.
    """

    def __init__(self, ip: InteractiveShell, held: Suspension) -> None:
        self._ip = ip
        self._error = held.error
        # What an iterator holds goes on in these frames: they must not live longer.
        is_left = held.iterator is None
        self._own = held.error.__traceback__ if is_left else None
        self._whole = through_live_frames(held)
        self._shown: Suspended | None = None

    def error(self, line: str) -> Suspended:
        """What the cell ends with."""
        made = self._shown = Suspended(line)
        name, _, rest = line.partition(":")
        shown = [f"{_BOLD}{name}{_PLAIN}:{rest}"]

        def render() -> list[str]:
            # Only now: the shell sets these to our error just before.
            self._error.__traceback__ = self._whole
            remember(self._ip, self._error, self._whole)
            return shown

        made._render_traceback_ = render  # type: ignore[attr-defined]
        return made

    def take_back(self) -> None:
        """The run goes on: nothing else may keep its frames alive."""
        self._error.__traceback__ = self._own
        if getattr(sys, "last_value", None) is self._error:
            sys.last_traceback = self._own
        if getattr(self._ip.InteractiveTB, "tb", None) is self._whole:
            self._ip.InteractiveTB.tb = None
        if self._shown is not None:
            self._shown.__traceback__ = None
        self._own = self._whole = None


def through_live_frames(held: Suspension) -> TracebackType | None:
    """A traceback from the run's outermost frame to where the exception was raised."""
    entry = held.error.__traceback__
    known = {found.frame for found in held.frames}
    current: FrameType | None = held.innermost.frame.f_back
    outermost = held.frames[-1].frame
    is_inside = held.innermost.frame is not outermost
    while is_inside and current is not None:
        if not _is_replaced(current, known) and not frames.is_ours(current):
            entry = TracebackType(
                entry, current, max(current.f_lasti, 0), current.f_lineno
            )
        is_inside = current is not outermost
        current = current.f_back
    return entry


def _is_replaced(frame: FrameType, known: set[FrameType]) -> bool:
    """A frame that waits for its continuation, which has its variables now."""
    return frames.has_guards(frame.f_code) and frame not in known


def error_line(error: BaseException) -> str:
    """An exception in one line: ``RuntimeError: message``."""
    try:
        message = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        message = ""
    if len(message) > _LONGEST:
        message = message[: _LONGEST - 3] + "..."
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def suspended_line(held: Suspension) -> str:
    """What the cell ends with; it stays true whatever happens next."""
    where = f" at {held.where}" if held.where else ""
    if held.is_paused:
        what = f"before line {held.innermost.line}"
        return f"Paused{where}: {what}. The run is alive: %fix, %resume."
    what = error_line(held.error)
    end = "" if what.endswith((".", "!", "?")) else "."
    return f"Suspended{where}: {what}{end} The run is alive: %fix, %resume."
