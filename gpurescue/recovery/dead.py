"""The frames that an exception has left: what they were, and letting go of them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from types import FrameType, TracebackType

from gpurescue.recovery import frames

_MAKES_GENERATOR = (
    inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
)

_NO_MEMORY = ("outofmemory", "out of memory", "allocate memory")


def failed_inside(entry: TracebackType | None, live: FrameType) -> tuple[str, ...]:
    """Who else had begun to run: libraries by their name, others by the function's."""
    found: dict[str, None] = {}
    for frame in _frames(entry):
        if frame is not live and not frames.is_guarded(frame):
            module = str(frame.f_globals.get("__name__", ""))
            own = module == str(live.f_globals.get("__name__", ""))
            name = frame.f_code.co_name if own else module.partition(".")[0]
            found[f"it failed inside {name}"] = None
    return tuple(found)[:2]


def unwound(entry: TracebackType | None, live: FrameType) -> tuple[str, ...]:
    """Names of guarded functions that the exception has left already.

    Not those inside an import: it leaves nothing behind, and is done again as a whole.
    """
    outside = itertools.takewhile(lambda frame: not _imports(frame), _frames(entry))
    return tuple(
        frame.f_code.co_qualname
        for frame in outside
        if frame is not live and frames.is_guarded(frame)
    )


def _imports(frame: FrameType) -> bool:
    """True for the body of a module that is being imported."""
    origin = getattr(frame.f_globals.get("__spec__"), "origin", None)
    return frame.f_code.co_name == "<module>" and frame.f_code.co_filename == origin


def clear(error: BaseException, live: FrameType) -> None:
    """Free what the dead frames below the guard hold; their text is kept.

    Those of the exceptions that ``error`` was raised from, too. A generator that has
    handled one of these may go on living, and to clear its frame would close it: it
    is left alone.
    """
    for frame in _frames(error.__traceback__):
        _clear(frame, live)
    for other in behind(error):
        for frame in _frames(other.__traceback__):
            if not frame.f_code.co_flags & _MAKES_GENERATOR:
                _clear(frame, live)


def is_out_of_memory(error: BaseException) -> bool:
    """True of Python's own error for want of memory, and of those of libraries."""
    if isinstance(error, MemoryError):
        return True
    # Not str(error): a user's __str__ may raise anything.
    said = [a for a in (type(error).__name__, *error.args) if type(a) is str]
    text = " ".join(said).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _NO_MEMORY)


def _clear(frame: FrameType, live: FrameType) -> None:
    if frame is live:
        return
    try:
        frame.clear()
    except RuntimeError:  # still running: a live frame further out
        pass


def _frames(entry: TracebackType | None) -> Iterator[FrameType]:
    while entry is not None:
        yield entry.tb_frame
        entry = entry.tb_next


def behind(error: BaseException) -> Iterator[BaseException]:
    """What an exception was raised from or with, and what a group holds."""
    waiting, seen = [error], {id(error)}
    while waiting:
        current = waiting.pop()
        parts = getattr(current, "exceptions", ())
        found = (current.__cause__, current.__context__, *parts)
        for other in found:
            if isinstance(other, BaseException) and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)
                yield other
