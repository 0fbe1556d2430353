"""Which call of a training step it was that failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gpurescue.protocols import Rollback
from gpurescue.state.halfway import backward, calls, steps
from gpurescue.state.halfway.frames import Dead, is_of


def rollbacks(dead: Dead, error: BaseException) -> Sequence[Rollback]:
    """The answer to the call that the user's code had made, if it was such a one.

    Of a call that another library has made nothing is known but that the library's
    own call begins again, and that the plan says.
    """
    dead = [entry for entry in dead if not is_of(entry, "gpurescue")]
    if not dead or not is_of(dead[0], "torch") or "torch.optim" not in sys.modules:
        return ()
    found = (
        steps.rollback(dead, error)
        or backward.rollback(dead, error)
        or calls.rollback(dead)
    )
    return () if found is None else (found,)
