"""Failures of ours, where the user's code must go on as if we were not there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_log = logging.getLogger(__name__)

STRICT = False  # True under test: our own failures are raised


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """What fails in the block is logged, and nobody else hears of it.

    Args:
        what: What the user misses, as a sentence for the log.
    """
    try:
        yield
    except Exception:
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
        raise error from failure.__cause__
