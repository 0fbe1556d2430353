"""Program points as data: where each of the user's frames stands, and what it has.

The innermost frame stands at the header of a loop, each outer one at a call. That it
can be gone on from there in another process is found out here, while it runs: what
would not be exact is refused, with the reason.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import CellType, FrameType, FunctionType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.recovery import frames, switch, twice
from gpurescue.recovery.continuation import Continuation
from gpurescue.recovery.handlers import inside
from gpurescue.recovery.handlers.inside import Gives
from gpurescue.recovery.handlers.values import Unreadable
from gpurescue.recovery.hands import Rounds, hand_of
from gpurescue.recovery.suspension import HeldFrame, held_frames
from gpurescue.source import operands, remainder, residual, splice
from gpurescue.source import tree as trees
from gpurescue.source.locate import Site
from gpurescue.source.operands import Operand
from gpurescue.source.remainder import Path
from gpurescue.source.residual import Failure, Span
from gpurescue.state import files, functions

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_OF_GENERATOR = ("contextlib", "_GeneratorContextManager")
_MANAGERS = {  # they keep what they need in themselves, and all else is a mode
    ("contextlib", "nullcontext"),
    ("contextlib", "suppress"),
    ("torch.autograd.grad_mode", "no_grad"),
    ("torch.autograd.grad_mode", "enable_grad"),
    ("torch.autograd.grad_mode", "set_grad_enabled"),
    ("torch.amp.autocast_mode", "autocast"),
    ("tqdm.std", "tqdm"),
    ("tqdm.notebook", "tqdm_notebook"),
    ("tqdm.asyncio", "tqdm_asyncio"),
}
CALL = "__gr_call__"  # hidden variables of a statement whose call was begun elsewhere
GIVEN = "__gr_given__"
INSTANCE = "__gr_made__"
_CALL = -1  # the slot of the call in progress, which has no value yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One of the user's frames.

    Attributes:
        source: Name of the source that it runs.
        line: First line of its function; 0 for a cell's body.
        name: Qualified name of its function.
        path: The way to the statement that it stands in.
        span: Of the call in that statement, or of the loop's header.
        is_before: True in front of the statement: nothing of it has run.
        flags: ``__future__`` flags of its code.
        home: A function that has the globals which it has.
        values: Its variables by name; of a cell's body none: the notebook has them.
        cells: Of its variables those that live in cells.
        slots: Operands of the statement that have their values, by slot.
        rounds: The loops that it is in, by their number.
        exits: What leaves the ``with`` blocks that it is in, outermost first.
        gives: What its caller's call has as its value: the name of a ``Gives``.
        instance: What ``gives`` means, if it is an instance.
    """

    source: str
    line: int
    name: str
    path: Path
    span: Span
    flags: int
    home: FunctionType
    values: dict[str, Any]
    cells: dict[str, CellType] = field(default_factory=dict)
    slots: dict[int, Any] = field(default_factory=dict)
    rounds: dict[int, Rounds] = field(default_factory=dict)
    exits: tuple[Any, ...] = ()
    is_before: bool = False
    gives: str = Gives.RESULT.name
    instance: Any = None


def points(frame: FrameType, base: FrameType | None = None) -> tuple[Point, ...]:
    """Where the user's frames stand, outermost first.

    Args:
        frame: The innermost of them, at the top of a round of a loop of its own: asking
            for an item, or in front of the first statement of the body.
        base: The run's own first frame.

    Raises:
        CannotResume: Nobody could go on from there exactly; says why.
    """
    held = held_frames(frame, base, None)
    if not held or held[0].frame is not frame:
        raise CannotResume(f"{_called(frame)} is not guarded.")
    if not frames.is_body(held[-1].frame):
        raise CannotResume(f"{held[-1].name} was not called by the cell.")
    found = [_innermost(held[0])]
    for inner, outer in itertools.pairwise(held):
        found[-1] = _called_by(outer, inner, found[-1])
        found.append(_outer(outer))
    return tuple(found[::-1])


def chain(held: Sequence[HeldFrame]) -> list[HeldFrame]:
    """Those of the user's frames that call each other, with nothing in between.

    Args:
        held: All of them, innermost first.
    """
    found = list(held[-1:])
    for outer, inner in itertools.pairwise(held[::-1]):
        first = _live_frames(inner.frame)[0]
        if first.f_back is not outer.frame:
            break
        found.append(inner)
    return [h for h in found if not h.frame.f_code.co_flags & _GENERATORS]


def is_uncounted(held: HeldFrame) -> bool:
    """True if a frame is in a loop whose rounds the clock does not count."""
    nodes = remainder.walk(held.definition.scope.body, held.path)
    return any(
        isinstance(node, ast.While)
        or (isinstance(node, ast.For) and hand_of(_iterator(held, node)) is None)
        for node, step in zip(nodes, held.path, strict=True)
        if step.field in {"body", ""}  # inside of it, or at its header
    )


def _iterator(held: HeldFrame, node: ast.For) -> Any:
    return frames.hidden(held.frame, trees.iterator_name(node))


def _called_by(outer: HeldFrame, inner: HeldFrame, point: Point) -> Point:
    """The point of ``inner``, which says what becomes of its result."""
    frame = _live_frames(inner.frame)[0]
    if frame.f_back is not outer.frame:
        between = "" if frame.f_back is None else _called(frame.f_back)
        raise CannotResume(f"{between} stands between {outer.name} and {inner.name}.")
    given = inside.gives(outer.frame, frame)
    if given is None:
        raise CannotResume(
            f"Line {outer.line} of {outer.name} does not call {inner.name} itself: "
            "what becomes of its result is not known."
        )
    if given is Gives.INSTANCE:
        return replace(point, gives=given.name, instance=_self_of(inner))
    if inside.runs(frame, frames.hidden(outer.frame, CALL)):  # in another's place
        made = frames.hidden(outer.frame, INSTANCE, operands.EMPTY)
        if made is not operands.EMPTY:
            return replace(point, gives=Gives.INSTANCE.name, instance=made)
    return point


def _self_of(held: HeldFrame) -> Any:
    scope = held.definition.scope
    assert isinstance(scope, trees.Function)
    name = [*scope.args.posonlyargs, *scope.args.args][0].arg
    if any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
        for n in ast.walk(scope)
    ):
        raise CannotResume(f"{held.name} changes the variable {name!r}.")
    return held.frame.f_locals[name]


def _live_frames(frame: FrameType) -> list[FrameType]:
    """The frames that a call consists of since it was mended, the first one first."""
    found = [frame]
    while isinstance(box := frames.hidden(found[-1], remainder.BOX), Continuation):
        found.append(box.live.frame)
    return found[::-1]


def _exits(held: HeldFrame) -> tuple[Any, ...]:
    """What leaves the ``with`` blocks of a frame, outermost first."""
    nodes = remainder.walk(held.definition.scope.body, held.path)
    blocks = [n for n, s in zip(nodes, held.path, strict=True) if s.field == "body"]
    if any(isinstance(node, ast.AsyncWith) for node in blocks):
        raise CannotResume(f"{held.name} is in an `async with` block.")
    found = [x for frame in _frames_of(held) for x in inside.exits(frame)]
    if len(found) != sum(isinstance(node, ast.With) for node in blocks):
        raise CannotResume(f"The `with` blocks of {held.name} are not found.")
    for leave in found:
        _check_manager(held, leave)
    return tuple(found)


def _check_manager(held: HeldFrame, leave: Any) -> None:
    """Refuse a manager of which it is not known that all it has done is in its object.

    It is not entered again: what it had done is there, as are thread-local modes. A
    file is opened again, and closed when its block is left.
    """
    manager = getattr(leave, "__self__", None)
    kind = type(manager)
    own = getattr(leave, "__func__", None)
    code = getattr(own, "__code__", None)
    if kind in files.KINDS:
        _check_file(held, manager)
        return
    is_users = code is not None and frames.has_guards(code)
    if is_users or (kind.__module__, kind.__qualname__) in _MANAGERS:
        return
    if (kind.__module__, kind.__qualname__) == _OF_GENERATOR:
        if frames.has_guards(manager.gen.gi_code):  # type: ignore[union-attr]
            return
    raise CannotResume(
        f"{held.name} is in a `with` block of {kind.__module__}.{kind.__qualname__}, "
        "which cannot be entered again in another process."
    )


def _check_file(held: HeldFrame, file: Any) -> None:
    try:
        files.check(file)
    except CannotResume as error:
        raise CannotResume(
            f"{held.name} is in a `with` block of a file that cannot be opened again: "
            f"{error}."
        ) from None


def _frames_of(held: HeldFrame) -> list[FrameType]:
    if not frames.is_body(held.frame):
        return _live_frames(held.frame)
    found: list[FrameType] = []
    current: FrameType | None = held.frame
    while current is not None:
        if frames.is_body(current) and frames.is_guarded(current):
            found.append(current)
        current = current.f_back
    return found[::-1]


def _called(frame: FrameType) -> str:
    module = frame.f_globals.get("__name__", "")
    return f"{frame.f_code.co_qualname} of {module}"


def _innermost(held: HeldFrame) -> Point:
    if held.site is Site.NEXT and isinstance(held.statement, ast.For):
        return _point(held)
    path = switch.standing_before(held.frame, held.definition)
    if path is None or not switch.begins_round(held.definition, path):
        raise CannotResume(f"Line {held.line} of {held.name} is no top of a round.")
    return replace(_point(replace(held, path=path)), is_before=True)


def _outer(held: HeldFrame) -> Point:
    return replace(_point(held), slots=slots(held, ast.Call))


def slots(held: HeldFrame, waits_for: type[ast.expr]) -> dict[int, Any]:
    """The values that the statement of a frame has, which waits for a part of it.

    Raises:
        CannotResume: It would not be exact to go on in the middle of it.
    """
    failed = _in_progress(held, waits_for)
    reason = twice.reason(held, failed, held.statement)
    if reason is not None:
        raise CannotResume(f"Line {held.line} of {held.name}: {reason}.")
    return {o.slot: failed.values[o.slot] for o in failed.done if o.slot != _CALL}


def _in_progress(held: HeldFrame, waits_for: type[ast.expr]) -> Failure:
    """How far the statement of a frame that waits has got."""
    node = held.statement
    kept = operands.operands(node, held.definition.unit.rebound)
    known = {
        o.slot: frames.hidden(held.frame, operands.slot_name(o.slot), operands.EMPTY)
        for o in kept
    }
    found = residual.failure(node, held.span, known, kept)
    if held.site is not Site.STATEMENT or not isinstance(found.at, waits_for):
        raise CannotResume(
            f"Line {held.line} of {held.name} waits for something else than a plain "
            f"{waits_for.__name__.lower()}."
        )
    own = {id(inner) for inner in ast.walk(found.at)}  # its callee, its arguments
    done = tuple(o for o in found.done if id(o.node) not in own)
    call = Operand(found.at, _CALL)  # what it does counts as what comes behind
    return replace(found, done=(*done, call), values={**found.values, _CALL: None})


def _point(held: HeldFrame) -> Point:
    if held.frame.f_code.co_flags & _GENERATORS:
        raise CannotResume(f"{held.name} is a generator, or awaits, and is running.")
    return point_of(held)


def point_of(held: HeldFrame) -> Point:
    """The point of a frame that may be a generator's.

    Raises:
        CannotResume: What it has beside its variables cannot be read.
    """
    frame, definition = held.frame, held.definition
    try:
        cells, exits = inside.cells(frame), _exits(held)
    except Unreadable as error:
        raise CannotResume(
            f"{held.name} has cells or `with` blocks: {error}."
        ) from None
    is_body = frames.is_body(frame)
    values = {} if is_body else frames.read(frame)
    return Point(
        source=definition.unit.filename,
        line=definition.line,
        name=definition.qualname,
        path=held.path,
        span=held.span,
        flags=splice.future_flags(frame.f_code),
        home=functions.home(frame.f_globals),
        values={name: x for name, x in values.items() if name not in cells},
        cells={} if is_body else cells,
        rounds=dict(_rounds(held)),
        exits=exits,
    )


def _rounds(held: HeldFrame) -> Iterator[tuple[int, Rounds]]:
    nodes = remainder.walk(held.definition.scope.body, held.path)
    for node, step in zip(nodes, held.path, strict=True):
        is_asked = not step.field and held.site is Site.NEXT
        if not isinstance(node, ast.For) or not (step.field == "body" or is_asked):
            continue
        iterator = _iterator(held, node)
        hand = hand_of(iterator)
        if hand is None:
            yield trees.number(node), Rounds(iterator=iterator)
        else:
            yield (
                trees.number(node),
                Rounds(
                    iterator=hand.asks,
                    items=hand.item,
                    count=hand.count,
                    total=hand.total,
                    tells=hand.tells,
                ),
            )
