"""Which call of a training step it was that failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gpurescue.protocols import Rollback
from gpurescue.state.again import Refused
from gpurescue.state.halfway import backward, calls, steps
from gpurescue.state.halfway.frames import Dead, is_of


def rollbacks(dead: Dead, error: BaseException) -> Sequence[Rollback]:
    """The answer to the call that failed, if it was one of a training step.

    If another library had made it, the library's own call would begin again.
    """
    dead = [entry for entry in dead if not is_of(entry, "gpurescue")]
    if not dead or "torch.optim" not in sys.modules:
        return ()
    found = (
        steps.rollback(dead, error)
        or backward.rollback(dead, error)
        or calls.rollback(dead)
    )
    if found is None or is_of(dead[0], "torch"):
        return () if found is None else (found,)
    if not found.note:
        return ()  # nothing had begun: the plan says what begins again
    return (Refused(f"{_maker(dead)} runs again from its beginning, but {found.note}"),)


def _maker(dead: Dead) -> str:
    """Who had made the call: another library, or a part of the user's statement."""
    package = str(dead[0].tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return "the statement" if package in {"", "__main__"} else package
