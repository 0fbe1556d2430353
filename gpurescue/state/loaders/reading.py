"""Which DataLoader it was that failed, read off the dead frames."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from types import CodeType, FrameType, TracebackType

from gpurescue.protocols import Rollback
from gpurescue.state.again import Again
from gpurescue.state.dead import names_of
from gpurescue.state.loaders import restart, single, watching


def rollbacks(
    dead: Sequence[TracebackType], error: BaseException
) -> Sequence[Rollback]:
    """How to get the same batch again, if it was one that failed."""
    module = sys.modules.get(watching.MODULE)
    if module is None:
        return ()
    frames = {entry.tb_frame.f_code: entry.tb_frame for entry in dead}
    asked = {
        module._SingleProcessDataLoaderIter._next_data.__code__: single.rollback,
        module._MultiProcessingDataLoaderIter._next_data.__code__: restart.rollback,
    }
    found = [
        read(frames[code], frames) for code, read in asked.items() if code in frames
    ]
    if found:
        return found
    made = inspect.unwrap(module.DataLoader.__iter__).__code__
    return _of_start(frames, made)


def _of_start(frames: dict[CodeType, FrameType], made: CodeType) -> Sequence[Rollback]:
    """An iterator could not be made: it had begun to draw."""
    frame = frames.get(made)
    begun = None if frame is None else watching.begun(names_of(frame)["self"])
    if begun is None:
        return ()
    note = "the DataLoader begins with the random numbers that it had"
    before = begun.before
    apply = lambda: before.put_back(before.made)  # noqa: E731
    return (Again(note, apply, gives_again=False),)
