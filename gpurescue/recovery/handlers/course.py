"""An exception on its way to the handler that was found for it.

Each guard that it passes would find the same handler again. So it is noted where the
decision fell, and guards further in than that let the exception pass. An exception is
known again by its id, type and the guard that it passed last, and not kept alive: with
it would live all that its frames hold. A mistake could only let an exception pass.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import FrameType

from gpurescue.recovery.handlers.shapes import landing
from gpurescue.recovery.handlers.tables import listing

_NEAR = 32  # entries of a traceback from one guard to the next
_FAR = 128  # frames to where the decision fell; further out guards ask again
_MOST = 4  # a context manager may throw the same exception into its generator


@dataclass(slots=True)
class Course:
    """Where one exception was seen last, and where its fate was decided.

    Attributes:
        error: Id of the exception.
        kind: Its type.
        frame: Id of the frame of the guard that it passed last.
        code: Id of the code that runs there.
        lasti: Where that guard's handler stands; outer ones stand further down.
        way: Ids of the frames from there to where its fate is decided.
        stop: The last of them, in which it is handled, becomes another exception, or
            in which that is not certain.
        targets: The handlers that it enters there.
    """

    error: int
    kind: type
    frame: int
    code: int
    lasti: int
    way: tuple[int, ...]
    stop: int
    targets: tuple[int, ...]


_courses: dict[int, list[Course]] = {}


def note(
    error: BaseException,
    frame: FrameType,
    stop: FrameType,
    targets: tuple[int, ...] = (),
) -> None:
    """Remember that what becomes of ``error`` is decided in ``stop``."""
    courses = _courses.setdefault(threading.get_ident(), [])
    if courses and (courses[0].error != id(error) or len(courses) >= _MOST):
        courses.clear()
    made = Course(
        id(error), type(error), id(frame), id(frame.f_code), frame.f_lasti,
        _way(frame, stop), id(stop), targets,
    )  # fmt: skip
    courses.append(made)


def _way(frame: FrameType, stop: FrameType) -> tuple[int, ...]:
    """The frames that will be left. Where it is raised again it may be in others."""
    found: list[int] = []
    outer: FrameType | None = frame
    while outer is not None and len(found) < _FAR:
        found.append(id(outer))
        if outer is stop:
            break
        outer = outer.f_back
    return tuple(found)


def forget() -> None:
    """The exception that this thread has judged last may be judged anew."""
    _courses.pop(threading.get_ident(), None)


def is_on_course(error: BaseException, frame: FrameType) -> bool:
    """Whether a guard further in has let ``error`` pass, and that still holds."""
    courses = _courses.get(threading.get_ident())
    if not courses or courses[0].error != id(error):
        return False
    for course in reversed(courses):
        if _follows(course, error, frame):
            return True
    return False


def _follows(course: Course, error: BaseException, frame: FrameType) -> bool:
    """Whether the guard in ``frame`` is the next one on this course."""
    place, lasti = id(frame), frame.f_lasti
    if course.kind is not type(error) or place not in course.way:
        return False
    if place == course.frame:
        if course.code != id(frame.f_code) or lasti <= course.lasti:
            return False
    elif not _came_through(error, frame, course):
        return False
    if place == course.stop and not _is_before(frame, course.targets):
        return False
    course.frame, course.code, course.lasti = place, id(frame.f_code), lasti
    return True


def _is_before(frame: FrameType, targets: tuple[int, ...]) -> bool:
    """Whether one of ``targets`` is the next handler for what leaves the guard."""
    entry = landing(listing(frame.f_code), frame.f_lasti).entry
    return entry is not None and entry.target in targets


def _came_through(error: BaseException, frame: FrameType, course: Course) -> bool:
    """Whether ``error`` has come from the guard that it passed last, and no further.

    A new exception that has got the id of an old one has not been there; one that was
    kept and is raised again has been in the frame that handled it.
    """
    entry = error.__traceback__
    while entry is not None and entry.tb_frame is not frame:
        entry = entry.tb_next
    for _ in range(_NEAR):
        if entry is None or (entry := entry.tb_next) is None:
            return False
        inner = entry.tb_frame
        if id(inner) == course.stop:
            return False
        if id(inner) == course.frame:
            return id(inner.f_code) == course.code
    return False
