"""Failures of ours, where the user's code must go on as if we were not there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import TracebackType

_log = logging.getLogger(__name__)

STRICT = False  # True under test: our own failures are raised
_sent_back = 0


class harmless:
    """What fails in the block is logged, and nobody else hears of it.

    Has no state: one may be made once, where loops that are counted come by often.

    Args:
        what: What the user misses, as a sentence for the log.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        _log.warning("%s", self._what, exc_info=error)
        return not STRICT


@contextlib.contextmanager
def handing_back(error: BaseException | None) -> Iterator[None]:
    """What fails in the block is logged, and ``error``, the user's own, is raised."""
    try:
        yield
    except Exception as failure:
        if error is None or STRICT:
            raise
        _log.exception("Rescue failed; the exception that held the run is raised.")
        raise sent_back(error) from failure.__cause__


def sent_back(error: BaseException) -> BaseException:
    """``error``, noted to be one that a failure of ours sends on its way."""
    global _sent_back
    _sent_back = id(error)
    return error


def nothing_sent_back() -> None:
    """A run is held by another exception: the last one may die, and its id be used."""
    global _sent_back
    _sent_back = 0


def was_sent_back(error: BaseException) -> bool:
    """True of the last exception that a failure of ours has sent on its way."""
    return id(error) == _sent_back
