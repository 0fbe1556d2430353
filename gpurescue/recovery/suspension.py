"""A run held at a program point: its live frames and what stopped it."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType, TracebackType
from typing import Any

from gpurescue.protocols import Rollback
from gpurescue.recovery import continuation, dead, frames
from gpurescue.recovery.continuation import Continuation, Live
from gpurescue.recovery.hands import hand_of
from gpurescue.source import cells, locate, remainder
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.locate import Site
from gpurescue.source.remainder import Path, Step
from gpurescue.source.tree import Block, Held


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFrame:
    """One of the user's frames in a suspended run; the innermost has index 0."""

    index: int
    frame: FrameType
    definition: Definition
    path: Path
    site: Site
    span: tuple[int, int, int, int]

    @property
    def line(self) -> int:
        """The line that failed, or whose call is in progress."""
        return self.span[0]

    @property
    def name(self) -> str:
        """Qualified name of the function; ``<module>`` for the cell's body."""
        return self.definition.qualname

    @property
    def statement(self) -> ast.stmt:
        """The statement that the frame stands in."""
        return remainder.statement(self.definition.scope.body, self.path)

    def variables(self) -> dict[str, Any]:
        """The frame's variables by name, in the order of their first assignment."""
        found = frames.read(self.frame)
        if frames.is_body(self.frame):
            used = _names_used(self.definition.scope)
            return {k: v for k, v in found.items() if k in used}
        return found


def _names_used(scope: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(scope) if isinstance(node, ast.Name)}


@dataclass(slots=True, kw_only=True)
class Suspension:
    """A parked run.

    Attributes:
        error: The exception that nobody would have handled; of a pause the
            KeyboardInterrupt that ``%resume --raise`` raises.
        live: The guarded block that is held.
        frames: The user's frames, innermost first.
        where: Reading of the loop clock, such as ``epoch 2, step 17``.
        traceback_text: The whole traceback as text; library frames are cleared, so
            that what they held is free again.
        unwound: What the exception has left already, since somebody in between might
            have handled it: a statement of the frame, names of guarded functions.
        failed_inside: Where the failing statement had got to: top-level packages, or
            functions without guards, of the dead frames.
        new_names: Variables that the user has added to a frame, by its index.
        changed: Names that the user may have given another value since it stopped.
        edited: Keys of the definitions that are new since it stopped.
        rollbacks: What library calls had half done.
        freed: Bytes that letting go of the failed call has freed, by device, after
            an error for want of memory.
        lost: Why the device takes no more commands of this process; empty if it does.
        is_paused: True if nothing failed: the run was asked to wait.
        iterator: The library's iterator that failed and holds the run, if it was one.
            The innermost of the user's frames waits for what it gives.
    """

    error: BaseException
    live: Live
    frames: tuple[HeldFrame, ...]
    where: str = ""
    traceback_text: str = ""
    unwound: tuple[str, ...] = ()
    failed_inside: tuple[str, ...] = ()
    new_names: dict[int, dict[str, Any]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    edited: set[tuple[str, int]] = field(default_factory=set)
    num_redefinitions: int = 0
    rollbacks: tuple[Rollback, ...] = ()
    freed: dict[str, int] = field(default_factory=dict)
    lost: str = ""
    is_paused: bool = False
    iterator: Any = None

    @property
    def innermost(self) -> HeldFrame:
        """The frame that failed."""
        return self.frames[0]

    def pause_before(self, path: Path) -> None:
        """Note that the innermost frame has yet to begin the statement at ``path``."""
        held = self.frames[0]
        node = remainder.statement(held.definition.scope.body, path)
        waiting = replace(held, path=path, site=Site.STATEMENT, span=trees.span(node))
        self.frames = (waiting, *self.frames[1:])
        self.is_paused = True


def suspend(
    error: BaseException, live: Live, base: FrameType | None, *, where: str
) -> Suspension | None:
    """Describe a run that is held in ``live``; None if its source is not known."""
    found = held_frames(live.frame, base, error.__traceback__)
    if not found or found[0].frame is not live.frame:
        return None
    text = "".join(traceback.format_exception(error))
    inside = dead.failed_inside(error.__traceback__, live.frame)
    unwound = dead.unwound(error.__traceback__, live.frame)
    innermost, left = _in_block(found[0], live.block)
    found, unwound = (innermost, *found[1:]), (*left, *unwound)
    dead.clear(error, live.frame)
    return Suspension(
        error=error,
        live=live,
        frames=found,
        where=where,
        traceback_text=text,
        unwound=unwound,
        failed_inside=inside,
    )


def _in_block(held: HeldFrame, live: Block) -> tuple[HeldFrame, tuple[str, ...]]:
    """The frame as its ``live`` block sees it, and the statement that it has left.

    An exception that somebody might have handled is let go by the guard of an inner
    block: that block is over, and the run stands in front of the statement around it.
    """
    start = len(continuation.path_to_block(held.definition, live))
    body, path = held.definition.scope.body, held.path
    for at, node in list(enumerate(remainder.walk(body, path)))[start:]:
        if not path[at].field or not isinstance(node, Held):
            continue
        if trees.has_guard(path[at].field, node):
            path = (*path[:at], Step(path[at].at))
            left = f"the `{remainder.kind(node)}` of line {node.lineno}"
            return replace(held, path=path, site=Site.STATEMENT), (left,)
    return held, ()


def suspend_iterator(
    error: Exception, frame: FrameType, base: FrameType | None, *, where: str
) -> Suspension | None:
    """Describe a run that a library's iterator holds; None if no frame waits for it.

    Args:
        error: What it raised; its traceback then begins in the user's frame.
        frame: The live frame of the iterator's ``__next__``.
        base: The run's own first frame.
        where: Reading of the loop clock.
    """
    found = held_frames(frame, base, None)
    if not found:
        return None
    user = found[0]
    error.__traceback__ = _from(user.frame, frame, error.__traceback__)
    text = "".join(traceback.format_exception(error))
    dead.clear(error, user.frame)
    return Suspension(
        error=error,
        live=Live(
            frame=user.frame,
            definition=user.definition,
            block=user.definition.layout.blocks[0],
        ),
        frames=found,
        where=where,
        traceback_text=text,
        iterator=frame.f_locals[frame.f_code.co_varnames[0]],
    )


def _from(
    outer: FrameType, inner: FrameType, entry: TracebackType | None
) -> TracebackType | None:
    """``entry``, which begins in ``inner``, with the live frames from ``outer`` on."""
    current: FrameType | None = inner
    while current is not None and current is not outer:
        current = current.f_back
        if current is not None and not frames.is_ours(current):
            line = current.f_lineno or 0
            entry = TracebackType(entry, current, max(current.f_lasti, 0), line)
    return entry


def held_frames(
    frame: FrameType, base: FrameType | None, entry: TracebackType | None
) -> tuple[HeldFrame, ...]:
    """The user's guarded frames from ``frame`` out to ``base``."""
    found: list[HeldFrame] = []
    seen_body = False
    for current in _guarded(frame, base):
        is_body = frames.is_body(current)
        if is_body and seen_body:
            continue
        lasti = current.f_lasti
        if current is frame and entry is not None:
            lasti = entry.tb_lasti
        held = _hold(len(found), current, lasti)
        if held is not None:
            found.append(held)
            seen_body = seen_body or is_body
    return tuple(found)


def _guarded(frame: FrameType, base: FrameType | None) -> Iterator[FrameType]:
    """Guarded frames, innermost first, without those that a continuation stands for."""
    replaced: set[FrameType] = set()
    current: FrameType | None = frame
    while current is not None and current is not base:
        if frames.is_guarded(current):
            box = frames.hidden(current, remainder.BOX)
            if isinstance(box, Continuation):
                replaced.add(box.live.frame)
            if current not in replaced:
                yield current
        current = current.f_back


Asked = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What one of the user's frames has, while it runs.

    Attributes:
        code: What runs in it: perhaps an older version than the function has by now.
        function: Qualified name; empty for the cell's body.
        variables: By name; of the cell's body none, as they are the notebook's.
        loops: Of each ``for`` that it is in, by a name such as ``<loop 0>``: the
            iterator; the item that it has given and nobody has begun with; and whose
            ``zero_grad`` is called first thing in the round with this item.
    """

    code: CodeType
    function: str
    variables: dict[str, Any]
    loops: dict[str, Asked]


def standing(frame: FrameType) -> list[Standing]:
    """The user's frames, outermost first.

    Args:
        frame: The innermost of them, or one of ours that it has called.
    """
    held = {inner.frame: inner for inner in held_frames(frame, None, None)}
    found = []
    for current in _guarded(frame, None):
        loops = _loops(held[current]) if current in held else {}
        if not frames.is_body(current):
            name = current.f_code.co_qualname
            found.append(Standing(current.f_code, name, frames.read(current), loops))
        elif loops:
            found.append(Standing(current.f_code, "", {}, loops))
    return found[::-1]


def _loops(held: HeldFrame) -> dict[str, Asked]:
    found: dict[str, Asked] = {}
    for node in remainder.walk(held.definition.scope.body, held.path):
        if not isinstance(node, ast.For):
            continue
        iterator = frames.hidden(held.frame, trees.iterator_name(node))
        if iterator is not None:
            hand = hand_of(iterator)
            asked: Asked = (iterator, (), ())
            if hand is not None:
                zeroed = _zeroed(held.frame, node) if hand.item else ()
                asked = (hand.asks, hand.item, zeroed)
            found[f"<loop {trees.number(node)}>"] = asked
    return found


def _zeroed(frame: FrameType, loop: ast.For) -> tuple[Any, ...]:
    """Whose gradients a round sets to None before anything else can look at them."""
    if not _is_names(loop.target):
        return ()
    new = _names_used(loop.target)
    found = []
    for node in loop.body:
        match node:
            case ast.Assign(targets=[target], value=ast.Name()) if _is_names(target):
                new |= _names_used(target)
            case ast.Expr(
                ast.Call(ast.Attribute(ast.Name(name), "zero_grad"), [], [])
            ) if name not in new:
                found.append(frame.f_locals.get(name, frame.f_globals.get(name)))
            case _:
                break
    return tuple(found)


def _is_names(target: ast.expr) -> bool:
    if isinstance(target, ast.Tuple):
        return all(_is_names(inner) for inner in target.elts)
    return isinstance(target, ast.Name)


def _hold(index: int, frame: FrameType, lasti: int) -> HeldFrame | None:
    definition = cells.definition(frame.f_code)
    at = locate.position(frame.f_code, lasti)
    if definition is None or at is None or at.is_ours:
        return None  # nobody knows where: several `except*` have failed together
    path = locate.find(definition.scope.body, at)
    if path is None:
        return None
    node = remainder.statement(definition.scope.body, path)
    return HeldFrame(
        index=index,
        frame=frame,
        definition=definition,
        path=path,
        site=locate.site(frame.f_code, node, at),
        span=at.span,
    )
