"""Stopping a frame in front of its next statement: to switch, to pause, or to look.

An edited function that is on the stack cannot be changed while it waits for a call. So
when the call returns, a one-shot line trace stops the frame in front of its next
statement; from there the frame's guard goes on in the new source, like after a crash.
A pause stops whichever of the user's frames comes to a statement first. Who only looks
waits for the first statement of a loop's body, and the frame goes on as it is.

A line event alone is no statement: the end of a ``with`` block, the next round of a
loop and the second line of a long call make one too. The stack tells them apart: in
front of a statement it is as deep as where that statement first begins.
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from gpurescue.errors import PatchRejected
from gpurescue.recovery import continuation, frames, own
from gpurescue.recovery.handlers import depth_at, guarding_block
from gpurescue.source import align, cells, locate, remainder
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.remainder import Path, Step
from gpurescue.source.tree import Loop


class Switch(BaseException):
    """Stops a frame in front of a statement. Never seen."""

    def __init__(self, frame: FrameType, path: Path) -> None:
        super().__init__()
        self.frame = frame
        self.path = path


Waiting = Iterable[tuple[FrameType, Definition]]
Stop = Callable[[FrameType, Path], BaseException]
Look = Callable[[FrameType], bool]

PATIENCE = 20.0  # seconds that somebody waits for a round to begin


def arm(waiting: Waiting) -> None:
    """Stop the first of these frames that comes to a statement of its own.

    Args:
        waiting: Live frames of the calling thread with their definitions.
    """
    found = dict(waiting)
    if found:
        _Trace(found, Switch).install()


def arm_all(waiting: Waiting, stop: Stop) -> None:
    """Stop the first of the user's frames that comes to a statement.

    Args:
        waiting: Live frames of the calling thread with their definitions; guarded
            functions that are called from now on are stopped, too.
        stop: Gives what is raised there.
    """
    _Pause(dict(waiting), stop).install()


def arm_look(waiting: Waiting, look: Look) -> None:
    """Show frames where a round of one of their loops begins, before its first line.

    Args:
        waiting: Live frames of the calling thread with their definitions.
        look: Called with such a frame until it says that it has seen enough.
    """
    found, current = dict(waiting), getattr(sys.gettrace(), "__self__", None)
    if found and not isinstance(current, _Trace):  # nobody else waits in the thread
        _Look(found, look).install()


class _Trace:
    """The one-shot trace; what was installed before is put back."""

    def __init__(self, waiting: dict[FrameType, Definition], stop: Stop) -> None:
        self._waiting = waiting
        self._stop = stop
        self._is_in = True
        self._before = sys.gettrace()
        self._before_in = {frame: frame.f_trace for frame in waiting}

    def install(self) -> None:
        for frame in self._waiting:
            frame.f_trace = self._local
        sys.settrace(self._calls)

    def _calls(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self._is_in:  # somebody was here since, and has put this back
            self._leave()
        return None  # new calls are not traced

    def _local(self, frame: FrameType, event: str, arg: Any) -> Any:
        stop: BaseException | None = None
        with own.harmless("Edited functions keep their old code, or nothing pauses."):
            stop = self._seen(frame, event)
            if stop is None:
                frames.forget_locals(frame)
                return self._local if self._is_in else None
        self._remove()
        frames.forget_locals(frame)
        if stop is not None:
            raise stop
        return None

    def _seen(self, frame: FrameType, event: str) -> BaseException | None:
        """What is to be raised at this event, if anything."""
        if event == "return":
            self._forget(frame)
        elif event == "line" and frame in self._waiting:
            path = self._place(frame)
            return None if path is None else self._stop(frame, path)
        return None

    def _place(self, frame: FrameType) -> Path | None:
        return standing_before(frame, self._waiting[frame])

    def _forget(self, frame: FrameType) -> None:
        self._waiting.pop(frame, None)
        if not self._waiting:
            self._remove()

    def _remove(self) -> None:
        self._is_in = False
        for frame, trace in self._before_in.items():
            if frame.f_trace == self._local:
                frame.f_trace = trace
        self._leave()

    def _leave(self) -> None:
        if sys.gettrace() == self._calls:
            sys.settrace(self._before)


class _Pause(_Trace):
    """Waits in every guarded frame, also in those that are not there yet."""

    def _calls(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self._is_in:
            return super()._calls(frame, event, arg)
        definition = (
            cells.definition(frame.f_code) if frames.is_guarded(frame) else None
        )
        if definition is None:
            return None
        self._waiting[frame] = definition
        self._before_in[frame] = None
        return self._local

    def _place(self, frame: FrameType) -> Path | None:
        definition = self._waiting[frame]
        path = standing_before(frame, definition)
        if path is None or not _is_place(definition, path):
            return None
        return None if frames.is_importing(frame) else path

    def _forget(self, frame: FrameType) -> None:
        self._waiting.pop(frame, None)
        self._before_in.pop(frame, None)


class _Look(_Trace):
    """Raises nothing; it is over when it has shown enough, or its time is up."""

    def __init__(self, waiting: dict[FrameType, Definition], look: Look) -> None:
        super().__init__(waiting, Switch)
        self._look = look
        self._until = time.monotonic() + PATIENCE

    def _calls(self, frame: FrameType, event: str, arg: Any) -> Any:
        if time.monotonic() > self._until:  # its frames may all be gone
            self._remove()
        return super()._calls(frame, event, arg)

    def _forget(self, frame: FrameType) -> None:
        self._before_in.pop(frame, None)  # what is in it may be large
        super()._forget(frame)

    def _seen(self, frame: FrameType, event: str) -> BaseException | None:
        if event == "return":
            self._forget(frame)
        elif event == "line" and frame in self._waiting:
            if self._is_top(frame) and self._look(frame):
                self._remove()
            elif time.monotonic() > self._until:
                self._remove()
        return None

    def _is_top(self, frame: FrameType) -> bool:
        definition = self._waiting[frame]
        path = standing_before(frame, definition)
        return path is not None and begins_round(definition, path)


def begins_round(definition: Definition, path: Path) -> bool:
    """True for the first statement of the body of a ``for`` or a ``while``."""
    if len(path) < 2 or path[-1].at or path[-2].field != "body":
        return False
    node = remainder.statement(definition.scope.body, path[:-1])
    return isinstance(node, ast.For | ast.While)


def _is_place(definition: Definition, path: Path) -> bool:
    """True for a statement that a frame can go on from."""
    nodes = remainder.walk(definition.scope.body, path[:-1])
    if any(isinstance(node, ast.TryStar) for node in nodes):
        return False  # what a clause raises is gathered by the statement itself
    if not nodes:
        return True
    block = trees.child_block(nodes[-1], path[-2].field, path[-2].handler)
    return path[-1].at < len(block)  # else a round has ended: not in any statement


def standing_before(frame: FrameType, definition: Definition) -> Path | None:
    """The statement that ``frame`` is about to begin; None inside of one."""
    at = locate.position(frame.f_code, frame.f_lasti)
    path = locate.find(definition.scope.body, at) if at else None
    if at is None or at.is_ours or path is None:
        return None
    if locate.is_compilers(frame.f_code, at):
        return None
    block, _ = continuation.split(definition, path)
    if guarding_block(frame.f_code, frame.f_lasti) != block.index:
        return None  # of some statements the compiler leaves nothing but a line
    node = remainder.statement(definition.scope.body, path)
    first = locate.first_offset(frame.f_code, node)
    if isinstance(node, Loop) and _is_next_round(frame, node, first):
        return (*path[:-1], Step(path[-1].at, "body"), Step(len(node.body)))
    if first is None or not _begins(frame, node, first):
        return None
    return path


def _is_next_round(frame: FrameType, node: Loop, first: int | None) -> bool:
    """True where a round has ended: the place behind the last statement of a body."""
    if isinstance(node, ast.While):
        return first is not None and frame.f_lasti > first
    return locate.is_next(frame.f_code, frame.f_lasti)


def _begins(frame: FrameType, node: ast.stmt, first: int) -> bool:
    code = frame.f_code
    if isinstance(node, ast.Match) and frame.f_lasti != first:
        return False  # at one of its cases
    if locate.is_inside_run(code, node, frame.f_lasti):
        return False
    if locate.has_columns(code):
        return locate.is_same_step(code, frame.f_lasti, first)
    return depth_at(code, frame.f_lasti) == depth_at(code, first)


def next_path(old: Definition, new: Definition, path: Path) -> Path:
    """Where a frame that stands before ``path`` of ``old`` goes on in ``new``.

    Behind what has run last: so a statement put in there runs, and one put in
    earlier takes effect the next time round. The last index of a path may lie behind
    the last statement, where a round of a loop ends.

    Raises:
        PatchRejected: ``new`` has no such place.
    """
    around = align.enclosing(old.scope.body, new.scope.body, path)
    if len(around) != len(path) - 1:
        line = remainder.walk(old.scope.body, path[:-1])[-1].lineno
        raise PatchRejected(
            f"The block around line {line} is gone from the new {new.name}; it takes "
            "effect from the next call."
        )
    steps: list[Step] = []
    before, after = list(old.scope.body), list(new.scope.body)
    for step in path[:-1]:
        partner = next(
            j for j, node in enumerate(after) if around.get(id(node)) is before[step.at]
        )
        steps.append(Step(partner, step.field, step.handler))
        before = trees.child_block(before[step.at], step.field, step.handler)
        after = trees.child_block(after[partner], step.field, step.handler)
    at = path[-1].at
    following = 0 if at == 0 else align.behind(before, after, at - 1)
    return (*steps, Step(following))
