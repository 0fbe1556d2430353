"""Frames of calls that failed, by the module that their functions are of."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType, TracebackType

Dead = Sequence[TracebackType]

# Once anything was compiled, torch calls parts of its optimizers through these.
_PASSING_ON = frozenset(
    {"torch._compile", "torch._dynamo.eval_frame", "torch.utils._contextlib"}
)


def is_of(entry: TracebackType, package: str) -> bool:
    """True if the function of a dead frame is of ``package`` or of a module in it."""
    name = _module(entry.tb_frame)
    return name == package or name.startswith(package + ".")


def is_passing_on(frame: FrameType) -> bool:
    """True if a frame is of a wrapper of torch that only calls what it wraps."""
    return _module(frame) in _PASSING_ON


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
