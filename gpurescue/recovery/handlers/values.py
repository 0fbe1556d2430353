"""Reading the value stack of a live frame.

There is no public way to it. CPython 3.11 to 3.13 keep locals and value stack in
``_PyInterpreterFrame.localsplus``; this module reads it by address. It does so only
on interpreters whose layout is known (``_LAYOUTS``) and where a self-test, made once,
reads back what it put there. Everybody else gets "unknown", which passes.

Only references that the frame itself holds are read: its locals, and slots below the
static stack depth. An operand that C code may already have released is compared by
address, and looked at only after ``object_at`` found it alive.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, CodeType, FrameType
from typing import Any

from gpurescue.recovery.handlers.tables import listing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets in ``_PyInterpreterFrame`` (Include/internal/pycore_frame.h).

    Attributes:
        code: Where the code object is.
        function: Where the function object is.
        previous: Where the address of the frame that called is.
        entered: Where ``is_entry`` (3.11) or ``owner`` is.
    """

    code: int
    function: int
    previous: int
    entered: int


_LAYOUTS = {
    (3, 11): Layout(code=32, function=0, previous=48, entered=68),
    (3, 12): Layout(code=0, function=16, previous=8, entered=70),
    (3, 13): Layout(code=0, function=16, previous=8, entered=70),
}
_INTERPRETER_FRAME = 24  # PyFrameObject.f_frame
_LOCALSPLUS = 72
_OWNED_BY_C_STACK = 3
_MOST_REFERENCES = 1 << 32

_IS_ENTRY_FLAG = sys.version_info < (3, 12)
_works = False
_layout = _LAYOUTS.get(sys.version_info[:2], _LAYOUTS[3, 13])
_ENTERED = _layout.entered
_PREVIOUS = _layout.previous

# The whole address space as arrays: indexing one is twice as fast as from_address().
_space = 2**47 if ctypes.sizeof(ctypes.c_void_p) == 8 else 8
_words = (ctypes.c_uint64 * (_space // 8)).from_address(0)
_bytes = (ctypes.c_uint8 * _space).from_address(0)
_objects = (ctypes.py_object * (_space // 8)).from_address(0)


class Unreadable(LookupError):
    """A slot is empty, or not where it should be."""


def interpreter_frame(frame: FrameType) -> int:
    """Address of the ``_PyInterpreterFrame``, checked to run the frame's code."""
    address = _words[id(frame) + _INTERPRETER_FRAME >> 3]
    if not address or _words[address + _layout.code >> 3] != id(frame.f_code):
        raise Unreadable(f"{frame!r} has an unknown layout")
    return address


def local(frame: FrameType, index: int) -> Any:
    """The local variable, cell or free variable number ``index``."""
    if not 0 <= index < listing(frame.f_code).slots:
        raise Unreadable(f"{frame!r} has no local number {index}")
    return _read(interpreter_frame(frame) + _LOCALSPLUS + 8 * index)


def slot(frame: FrameType, index: int) -> Any:
    """The value number ``index`` of the value stack; it must be live there."""
    return _read(slot_address(frame, index))


def word(address: int) -> int:
    """The eight bytes at the address of a slot: a pointer, 0 for NULL."""
    return _words[address >> 3]


def slot_address(frame: FrameType, index: int) -> int:
    """Where slot ``index`` of the value stack is."""
    code = frame.f_code
    if not 0 <= index < code.co_stacksize:
        raise Unreadable(f"{frame!r} has no stack slot {index}")
    offset = 8 * (listing(code).slots + index)
    return interpreter_frame(frame) + _LOCALSPLUS + offset


def _read(address: int) -> Any:
    if not _words[address >> 3]:
        raise Unreadable("NULL")
    return _objects[address >> 3]


def object_at(address: int) -> Any:
    """The object at ``address``, which C code in progress should still hold.

    A freed object's reference count is overwritten by the allocator's free list,
    so a count out of range means that C code has already let go of it.
    """
    if not address or address & 7:
        raise Unreadable("no object")
    references = _words[address >> 3]  # of immortal objects, 3.12+: 2**32 - 1
    if not 0 < references < _MOST_REFERENCES or not _words[address + 8 >> 3]:
        raise Unreadable("not alive")
    return ctypes.cast(address, ctypes.py_object).value


def first_argument(frame: FrameType) -> Any:
    """The first positional argument of a call as it stands now."""
    value = local(frame, 0)
    if type(value) is CellType:  # an argument that is captured by a closure
        try:
            value = value.cell_contents
        except ValueError:
            raise Unreadable("empty cell") from None
    return value


def function_address(frame: FrameType) -> int:
    """Address of the function object that runs in ``frame``."""
    return _words[interpreter_frame(frame) + _layout.function >> 3]


def called_from_c(frame: FrameType) -> bool:
    """Whether C code stands between ``frame`` and the Python frame that called it.

    For a live frame only. Not checked as in ``interpreter_frame``: this is asked of
    every frame on the stack.
    """
    address = _words[id(frame) + _INTERPRETER_FRAME >> 3]
    if _IS_ENTRY_FLAG:
        return _bytes[address + _ENTERED] != 0
    previous = _words[address + _PREVIOUS >> 3]
    # 3.12+: each run of the evaluation loop puts an entry frame of its own there.
    return not previous or _bytes[previous + _ENTERED] == _OWNED_BY_C_STACK


def calls_straight(outer: FrameType, inner: FrameType) -> bool:
    """Whether no other frame, such as the interpreter's own, stands between the two."""
    return _words[interpreter_frame(inner) + _PREVIOUS >> 3] == interpreter_frame(outer)


def available() -> bool:
    """Whether this interpreter's frames can be read."""
    return _works or _try()


def _try() -> bool:
    """Run the self-test, again each time until it succeeds.

    Again, because while a PEP 523 frame evaluator is set (torch.compile) every call
    looks as if made from C, and the test fails for as long.
    """
    global _works
    if not _is_known_build():
        return False
    try:
        _works = _self_test()
    except Exception:  # any surprise means an unknown layout
        logger.exception("Frames of this interpreter cannot be read.")
    return _works


def _is_known_build() -> bool:
    return (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] in _LAYOUTS
        and ctypes.sizeof(ctypes.c_void_p) == 8
        and sys.byteorder == "little"
        # Without the GIL, or when tracing references, object headers are larger.
        and object.__basicsize__ == 16
        and getattr(sys, "_is_gil_enabled", lambda: True)()
    )


class _Mark:
    """A context manager whose exit is looked for on the stack."""

    def __enter__(self) -> _Mark:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def _probe(mark: _Mark, look: Callable[[FrameType], bool]) -> bool:
    known = mark
    with mark:
        return look(sys._getframe()) and known is mark


def _self_test() -> bool:
    """Read a known local, a known exit callable, and who was called from C."""
    mark = _Mark()
    if not _probe(mark, lambda frame: _reads(frame, mark)):
        return False
    from_c = list(map(lambda _: called_from_c(sys._getframe()), (0,)))
    direct = (lambda: called_from_c(sys._getframe()))()
    straight = (lambda: calls_straight(sys._getframe(1), sys._getframe()))()
    return from_c == [True] and direct is False and straight


def _reads(frame: FrameType, mark: _Mark) -> bool:
    code: CodeType = frame.f_code
    entry = listing(code).entry(frame.f_lasti)
    if entry is None or local(frame, 2) is not mark:
        return False
    leave = slot(frame, entry.depth - 1)
    return (
        first_argument(frame) is mark
        and getattr(leave, "__self__", None) is mark
        and getattr(leave, "__func__", None) is _Mark.__exit__
        and function_address(frame) == id(_probe)
    )
