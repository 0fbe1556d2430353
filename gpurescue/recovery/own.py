"""Failures of ours, where the user's code must go on as if we were not there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_log = logging.getLogger(__name__)

STRICT = False  # True under test: our own failures are raised
_sent_back: tuple[BaseException, str] | None = None


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """What fails in the block is logged, and nobody else hears of it.

    Args:
        what: What the user misses, as a sentence for the log.
    """
    try:
        yield
    except Exception:  # noqa: BLE001
        failed(what)


def failed(what: str) -> None:
    """The same, called by a handler: where a ``with`` would cost too much."""
    _log.warning("%s", what, exc_info=True)
    if STRICT:
        raise


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


def sent_back(
    error: BaseException, left: str = "the function that failed"
) -> BaseException:
    """``error``, noted to go on its way from a frame that it leaves no trace of.

    A failure of ours sends it, or it is a group that several ``except*`` have raised.
    """
    global _sent_back
    _sent_back = error, left
    return error


def nothing_sent_back() -> None:
    """A run is held, or over: the exception may die."""
    global _sent_back
    _sent_back = None


def last_sent_back() -> tuple[BaseException, str] | None:
    """The last of these exceptions, and what it has left."""
    return _sent_back
