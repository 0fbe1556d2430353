"""Schedulers and gradient scalers that failed.

They keep counters and settings in plain attributes. What they had done by the line
that failed is read off their source: nothing, or a counter that is set back, or else
the call must not run again.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from gpurescue.protocols import Rollback
from gpurescue.state.again import Again, Refused
from gpurescue.state.dead import names_of
from gpurescue.state.halfway.frames import Dead, is_of
from gpurescue.state.halfway.traces import Moved, moved

_MODULES = ("torch.optim.lr_scheduler", "torch.amp.grad_scaler")


def rollback(dead: Dead) -> Rollback | None:
    """The answer to the first scheduler's or scaler's call; None if none failed."""
    own = [entry for entry in dead if _is_own(entry)]
    if not own or own[0].tb_frame.f_code.co_name in {"__init__", "wrapper"}:
        return None  # it is made anew; or an optimizer's step that is watched by it
    name = _name(own[0])
    if _has_unscaled_nothing(dead):
        return Again("", _nothing, gives_again=False)
    found: list[Moved] = []
    for entry in own:
        counters = moved(entry)
        if counters is None:
            return Refused(
                f"{name} had begun, and what it has done cannot be taken back; "
                "%resume --iteration goes back to the top of the round"
            )
        found += counters
    note = f"{name} had begun, and is set back" if found else ""
    return Again(note, lambda: _undo(found), gives_again=False)


def _is_own(entry: TracebackType) -> bool:
    is_part = entry.tb_frame.f_code.co_name.startswith("<")  # a comprehension
    return not is_part and any(is_of(entry, name) for name in _MODULES)


def _name(entry: TracebackType) -> str:
    frame = entry.tb_frame
    owner = names_of(frame).get("self")
    return f"{type(owner).__name__}.{frame.f_code.co_name}"


def _has_unscaled_nothing(dead: Dead) -> bool:
    """True if a scaler failed while it was collecting the gradients to unscale."""
    scaler: Any = sys.modules["torch"].amp.GradScaler
    unscale = scaler._unscale_grads_.__code__
    last = dead[-1].tb_frame
    return last.f_code is unscale and "device" not in names_of(last)


def _undo(found: list[Moved]) -> None:
    for counter in found:
        counter.undo()


def _nothing() -> None:
    """Nothing had been done."""
