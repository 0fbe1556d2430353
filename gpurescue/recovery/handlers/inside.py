"""What a live frame has beside its variables: cells, open blocks, and who called it."""

from __future__ import annotations

import enum
from types import CellType, FrameType, MethodType
from typing import Any

from gpurescue.recovery.handlers import callables, values
from gpurescue.recovery.handlers.abstract import UNKNOWN
from gpurescue.recovery.handlers.crossing import CALLS, Crossing, is_version_of
from gpurescue.recovery.handlers.objects import inherits, is_class, lookup
from gpurescue.recovery.handlers.paths import Undecided
from gpurescue.recovery.handlers.tables import OP, listing


class Gives(enum.Enum):
    """What the call that a frame makes has as its value."""

    RESULT = "what the function returns"
    INSTANCE = "the instance that it makes ready"


def cells(frame: FrameType) -> dict[str, CellType]:
    """The cells of a live frame: its own variables that others use, and others' own.

    Raises:
        Unreadable: Frames of this interpreter cannot be read.
    """
    code = frame.f_code
    names = {*code.co_cellvars, *code.co_freevars}
    if not names:
        return {}
    if not values.available():
        raise values.Unreadable("frames of this interpreter cannot be read")
    known = listing(code)
    found: dict[str, CellType] = {}
    for index in range(known.slots):
        name = known.variable(index)
        if name in names and type(cell := values.local(frame, index)) is CellType:
            found[name] = cell
    return found


def exits(frame: FrameType) -> list[Any]:
    """What leaves the ``with`` blocks that a live frame is in, outermost first.

    Raises:
        Unreadable: Frames of this interpreter cannot be read.
    """
    code = listing(frame.f_code)
    found: list[Any] = []
    entry = code.entry(frame.f_lasti)
    while entry is not None:
        first = code.at(entry.target)
        if first.op == OP["PUSH_EXC_INFO"]:
            if code.at(first.after).op == OP["WITH_EXCEPT_START"]:
                if not values.available():
                    raise values.Unreadable("frames cannot be read")
                found.append(values.slot(frame, entry.depth - 1))
        entry = code.entry(entry.target)
    return found[::-1]


def gives(outer: FrameType, inner: FrameType) -> Gives | None:
    """What becomes of what ``inner`` returns in ``outer``, which called it.

    None if C code stands between the two, which does nobody knows what with it: an
    operator, ``sorted(key=...)``, a property.
    """
    if listing(outer.f_code).running(outer.f_lasti).op not in CALLS:
        return None
    if not values.available():
        return None
    if not values.called_from_c(inner):
        if values.calls_straight(outer, inner):
            return Gives.RESULT
        return Gives.INSTANCE if inner.f_code.co_name == "__init__" else None
    crossing = Crossing(outer, inner, UNKNOWN)
    if callables.is_called_directly(crossing):
        return Gives.RESULT
    try:
        return _through_c(crossing, crossing.operand(crossing.callable_pointer))
    except Undecided:
        return None


def runs(frame: FrameType, function: object) -> bool:
    """Whether it is this very function that runs in a live frame."""
    return values.available() and values.function_address(frame) == id(function)


def _through_c(crossing: Crossing, called: Any) -> Gives | None:
    code = crossing.inner.f_code
    if type(called) is MethodType:
        return Gives.RESULT if is_version_of(called.__func__, code) else None
    if not is_class(called) or not crossing.arguments:
        return None
    is_plain = lookup(type(called), "__call__")[1] is type.__dict__["__call__"]
    is_init = is_version_of(lookup(called, "__init__")[1], code)
    is_own = inherits(type(crossing.first), called)
    return Gives.INSTANCE if is_plain and is_init and is_own else None
