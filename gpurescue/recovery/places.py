"""Where in its loops a run stands, by the names that its user has given them.

Asked at every value that is logged, in some microseconds: what the source says of an
instruction is kept, and the iterator of a loop is read where the frame has it. To ask a
frame for its variables would keep what is in them alive.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from gpurescue.recovery import frames
from gpurescue.recovery.continuation import Continuation
from gpurescue.recovery.handlers import values
from gpurescue.recovery.hands import hand_of
from gpurescue.source import cells, locate, remainder
from gpurescue.source import tree as trees

Value = int | float | str | bool
Place = tuple[tuple[str, Value], ...]  # of each loop, outermost first
EPOCH, STEP = "epoch", "step"  # of a loop whose variables are no such name
_MOST = 4096  # pieces of code that are known at a time
_IN_BODY = -1
_PLAIN = (int, float, str, bool)
_OfRange: type = type(iter(range(0)))
_OfList: type = type(iter([]))
_OfTuple: type = type(iter(()))


@dataclass(frozen=True, slots=True)
class _Loop:
    """A ``for`` around an instruction.

    Attributes:
        name: The user's for what the loop counts or goes through; empty if that has no
            single name.
        index: The number of the local variable that has its iterator.
        hidden: The name of that variable.
    """

    name: str
    index: int
    hidden: str


class _Known:
    """What is known of one piece of code."""

    def __init__(self, code: CodeType) -> None:
        self.code = code  # kept: another one could get its id
        self.loops: dict[int, tuple[_Loop, ...]] = {}
        self.is_guarded = frames.has_guards(code)
        names = code.co_varnames
        self.box = names.index(remainder.BOX) if remainder.BOX in names else None

    def around(self, lasti: int) -> tuple[_Loop, ...]:
        """The loops around the instruction at byte offset ``lasti``."""
        found = self.loops.get(lasti)
        if found is None:
            found = self.loops[lasti] = tuple(_loops(self.code, lasti))
        return found


_known: dict[int, _Known] = {}


def place(frame: FrameType | None) -> Place:
    """Where the run that a frame belongs to stands.

    A loop over a range or ``enumerate`` is at the number that its variable has, one
    over a list of numbers or texts at that item, another one of the two outermost, or
    over a list, at the number of its round, from 0. All others are left out, and so is
    ``while``.

    Args:
        frame: The innermost one.

    Returns:
        The name and the value of each loop, outermost first; empty where frames of this
        interpreter cannot be read.
    """
    found: list[tuple[str, Value]] = []
    if not values.available():
        return ()
    replaced: set[FrameType] = set()
    while frame is not None:
        known = _of(frame.f_code)
        if known.is_guarded:
            if known.box is not None:
                _replace(frame, known.box, replaced)
            loops = known.around(frame.f_lasti)
            if loops and frame not in replaced:
                found[:0] = _standing(frame, loops)
        frame = frame.f_back
    return _named(found)


def _of(code: CodeType) -> _Known:
    known = _known.get(id(code))
    if known is None:
        if len(_known) >= _MOST:
            _known.clear()
        known = _known[id(code)] = _Known(code)
    return known


def _replace(frame: FrameType, box: int, replaced: set[FrameType]) -> None:
    """Note the frame that a continuation stands for."""
    found = _local(frame, box)
    if isinstance(found, Continuation):
        replaced.add(found.live.frame)


def _standing(
    frame: FrameType, loops: tuple[_Loop, ...]
) -> Iterator[tuple[str, Value]]:
    for loop in loops:
        if loop.index == _IN_BODY:
            iterator = frame.f_globals.get(loop.hidden)
        else:
            iterator = _local(frame, loop.index)
        if iterator is not None:
            value = _value(iterator)
            if value is not None:
                yield loop.name, value


def _local(frame: FrameType, index: int) -> Any:
    try:
        return values.local(frame, index)
    except values.Unreadable:
        return None


def _value(iterator: Any) -> Value | None:
    """What the variable of a loop has, or the number of the round."""
    hand = hand_of(iterator)
    if hand is None:
        return _given(iterator)
    found = _given(hand.asks)
    return hand.count - 1 if found is None else found


def _given(iterator: Any) -> Value | None:
    """What an iterator has given last, if it tells, and it is plain."""
    reader = _READERS.get(type(iterator))
    return None if reader is None else reader(iterator)


def _of_range(iterator: Any) -> Value:
    _, (rest,), *more = iterator.__reduce__()
    at = more[0] if more and more[0] else 0  # CPython 3.12 and newer give the rest only
    return int(rest.start + (at - 1) * rest.step)


def _of_enumerate(iterator: Any) -> Value:
    return int(iterator.__reduce__()[1][1]) - 1


def _of_items(iterator: Any) -> Value | None:
    _, given, *more = iterator.__reduce__()
    if not more or not more[0]:  # it is over, or has not begun
        return None
    at = int(more[0]) - 1
    item = given[0][at]
    return item if type(item) in _PLAIN else at


def _of_zip(iterator: Any) -> Value | None:
    return _given(iterator.__reduce__()[1][0])


_READERS: dict[type, Callable[[Any], Value | None]] = {
    _OfRange: _of_range,
    _OfList: _of_items,
    _OfTuple: _of_items,
    enumerate: _of_enumerate,
    zip: _of_zip,
}


def _loops(code: CodeType, lasti: int) -> Iterator[_Loop]:
    definition, at = cells.definition(code), locate.position(code, lasti)
    path = locate.find(definition.scope.body, at) if definition and at else None
    if definition is None or path is None:
        return
    nodes = remainder.walk(definition.scope.body, path)
    for step, node in zip(path, nodes, strict=True):
        if isinstance(node, ast.For) and step.field == "body":
            hidden = trees.iterator_name(node)
            if hidden in code.co_varnames:
                index = code.co_varnames.index(hidden)
                yield _Loop(_name(node), index, hidden)
            elif code.co_name == "<module>":
                yield _Loop(_name(node), _IN_BODY, hidden)


def _name(loop: ast.For) -> str:
    """What the loop's number, or item, is called; empty for parts of an item."""
    target = loop.target
    if isinstance(target, ast.Tuple) and _counts(loop.iter):
        target = target.elts[0]
    return target.id if isinstance(target, ast.Name) and target.id != "_" else ""


def _counts(iterable: ast.expr) -> bool:
    """True for a call of ``enumerate`` or ``zip``, perhaps in one of something else."""
    while isinstance(iterable, ast.Call):
        if isinstance(iterable.func, ast.Name) and iterable.func.id in {
            "enumerate",
            "zip",
        }:
            return True
        if not iterable.args:
            return False
        iterable = iterable.args[0]
    return False


def _named(found: list[tuple[str, Value]]) -> Place:
    """The same, and no two of them with one name."""
    names: set[str] = set()
    made = []
    for at, (given, value) in enumerate(found):
        is_outermost = at == 0 and len(found) > 1
        name = given or (EPOCH if is_outermost else STEP)
        base, number = name, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.add(name)
        made.append((name, value))
    return tuple(made)
