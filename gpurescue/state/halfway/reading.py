"""Which call of a training step it was that failed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import TracebackType

from gpurescue.protocols import Rollback
from gpurescue.state.again import Refused
from gpurescue.state.halfway import backward, calls, steps
from gpurescue.state.halfway.frames import Dead, is_of

_WAY = "%resume --iteration goes back to the top of the round"


def rollbacks(dead: Dead, error: BaseException) -> Sequence[Rollback]:
    """The answer to the call that failed, if it was one of a training step.

    If another library had made it, the library's own call would begin again.
    """
    dead = [entry for entry in dead if not is_of(entry, "gpurescue")]
    if not dead or "torch.optim" not in sys.modules:
        return ()
    found = _read(dead, error) or _behind(dead, error)
    if found is None or is_of(dead[0], "torch"):
        return () if found is None else (found,)
    if not found.note:
        return ()  # nothing had begun: the plan says what begins again
    return (Refused(f"{_maker(dead)} runs again from its beginning, but {found.note}"),)


def _read(dead: Dead, error: BaseException) -> Rollback | None:
    return (
        steps.rollback(dead, error)
        or backward.rollback(dead, error)
        or calls.rollback(dead)
    )


def _behind(dead: Dead, error: BaseException) -> Rollback | None:
    """The answer to a call in whose place a library has raised something else."""
    first = error.__cause__ or error.__context__
    entry = None if first is None else first.__traceback__
    if first is None or entry is None:
        return None
    if all(entry.tb_frame is not other.tb_frame for other in dead):
        return None  # it has to do with something else
    entries: list[TracebackType] = []
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    found = _read([e for e in entries if not is_of(e, "gpurescue")], first)
    if found is None or not found.note or isinstance(found, Refused):
        return found
    begun = re.split("[:,]", found.note)[0]
    return Refused(f"{begun}, and something else was raised in its place; {_WAY}")


def _maker(dead: Dead) -> str:
    """Who had made the call: another library, or a part of the user's statement."""
    package = str(dead[0].tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return "the statement" if package in {"", "__main__"} else package
