"""What the front adds to a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from gpurescue.protocols import Journal, Rollback


@dataclass(slots=True, kw_only=True)
class Hooks:
    """What the front adds to a run; each is called in the run's own thread.

    Attributes:
        on_start: Once, before the body: thread-local modes of the caller.
        on_wake: Before the body and after each suspension: whose output it is.
        on_failure: At an exception that suspends: what was left half done.
        lost: Why the device takes no more commands after an error; empty if it does.
        memory: Bytes in use, by device; asked around an error for want of memory.
        journal: Reads what a round of a loop may change; None to mark no round.
        marks_all: True to mark every round, whatever it costs.
        on_end: Once, when the run is over.
    """

    on_start: Callable[[], None] = lambda: None
    on_wake: Callable[[], None] = lambda: None
    on_failure: Callable[[BaseException, FrameType], Sequence[Rollback]] = (
        lambda error, frame: ()
    )
    lost: Callable[[BaseException], str] = lambda error: ""
    memory: Callable[[], dict[str, int]] = dict
    journal: Journal | None = None
    marks_all: bool = False
    on_end: Callable[[], None] = lambda: None
