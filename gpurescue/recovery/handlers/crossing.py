"""One exception on its way from a Python frame through C code to another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import (
    CellType,
    CodeType,
    FrameType,
    FunctionType,
)
from typing import Any, Final, Generic, TypeVar, overload

from gpurescue.recovery.handlers import values
from gpurescue.recovery.handlers.abstract import Value
from gpurescue.recovery.handlers.objects import (
    class_of,
    inherits,
    is_any,
    lookup,
)
from gpurescue.recovery.handlers.paths import Undecided
from gpurescue.recovery.handlers.shapes import GUARDS
from gpurescue.recovery.handlers.tables import OP, Instruction, listing

T = TypeVar("T")

SINCE_12: Final = sys.version_info >= (3, 12)
_SINCE_13: Final = sys.version_info >= (3, 13)
CALLS: Final = frozenset(
    OP[name] for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") if name in OP
)
_CALL_EX: Final = OP["CALL_FUNCTION_EX"]
_CALL_KW: Final = OP.get("CALL_KW", -1)
_CO_COROUTINE: Final = 0x80 | 0x100
_CO_NEWLOCALS: Final = 0x02
_CO_VARARGS: Final = 0x04
_LOOKED_AT: Final = 3


def is_special(name: str) -> bool:
    """Whether ``name`` is that of a special method."""
    return name.startswith("__") and name.endswith("__")


_NO_GETTERS: Final = (FunctionType, staticmethod, classmethod, type(None))


def is_version_of(function: Any, code: CodeType) -> bool:
    """Whether ``function`` runs ``code``, or did until it was redefined.

    A redefinition gives a function other code while calls of it are still live.
    """
    if type(function) is not FunctionType:
        return False
    own = function.__code__
    if own is code:
        return True
    is_guarded = GUARDS in own.co_consts and GUARDS in code.co_consts
    return is_guarded and own.co_qualname == code.co_qualname


class lazy(Generic[T]):
    """An attribute that is worked out once; 3.11's cached_property takes a lock."""

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        self.work_out = work_out
        self.name = work_out.__name__

    @overload
    def __get__(self, owner: None, cls: type) -> lazy[T]: ...

    @overload
    def __get__(self, owner: object, cls: type) -> T: ...

    def __get__(self, owner: object | None, cls: type) -> lazy[T] | T:
        if owner is None:
            return self
        found = owner.__dict__[self.name] = self.work_out(owner)
        return found


class Crossing:
    """One exception on its way from ``inner`` through C code to ``outer``."""

    def __init__(self, outer: FrameType, inner: FrameType, thrown: Value) -> None:
        self.outer = outer
        self.inner = inner
        self.thrown = thrown
        self.name = inner.f_code.co_name
        cls = class_of(thrown)
        self.cls: type = BaseException if cls is None else cls

    @lazy
    def step(self) -> Instruction:
        """The instruction that ``outer`` stands in."""
        return listing(self.outer.f_code).running(self.outer.f_lasti)

    @lazy
    def depth(self) -> int:
        """How much was on the value stack of ``outer`` before that instruction."""
        depth = listing(self.outer.f_code).depth(self.step.start)
        if depth < 0:
            raise Undecided("unreachable code runs")
        return depth

    @lazy
    def arguments(self) -> list[Any]:
        """The first arguments of ``inner``, as far as they can be read."""
        code = self.inner.f_code
        if not values.available():
            return []
        indices = list(range(min(code.co_argcount, _LOOKED_AT)))
        if not indices and code.co_flags & _CO_VARARGS:
            return list(self._local(code.co_kwonlyargcount) or ())[:_LOOKED_AT]
        return [self._local(index) for index in indices]

    @property
    def first(self) -> Any:
        """The first argument; there must be one."""
        return self.arguments[0]

    def _local(self, index: int) -> Any:
        try:
            value = values.local(self.inner, index)
            return value.cell_contents if type(value) is CellType else value
        except (values.Unreadable, ValueError):
            return None

    @lazy
    def is_hook(self) -> bool:
        """Whether C called a special method or an attribute's getter."""
        return is_special(self.name) or self.is_getter

    @lazy
    def is_getter(self) -> bool:
        """Whether C was looking up an attribute, for all we know."""
        if not self.is_kind(AttributeError):
            return False
        if self.name in ("__getattr__", "__getattribute__", "__get__"):
            return True
        if not values.available():
            return True
        if not self.arguments:
            return False
        _, found = lookup(type(self.first), self.name)
        return not is_any(type(found), _NO_GETTERS)

    def is_kind(self, cls: type) -> bool:
        """Whether the exception is a ``cls``."""
        return inherits(self.cls, cls)

    def is_any_of(self, *classes: type) -> bool:
        """Whether the exception is of one of ``classes``."""
        return any(inherits(self.cls, cls) for cls in classes)

    def passes(self) -> list[Value]:
        """The exception arrives as it is."""
        return [self.thrown]

    @lazy
    def stack(self) -> int:
        """Where the value stack of ``outer`` begins."""
        if not values.available():
            raise Undecided("the value stack cannot be read")
        return values.slot_address(self.outer, 0)

    def pointer(self, index: int) -> int:
        """What slot ``index`` of ``outer`` points to."""
        if not 0 <= index < self.depth:
            raise Undecided("there is no such slot")
        return values.word(self.stack + 8 * index)

    def operand_pointers(self, count: int) -> list[int]:
        """Addresses of the instruction's operands; to be compared, not looked at."""
        first = self.depth - count
        return [self.pointer(first + index) for index in range(count)]

    def operand(self, pointer: int) -> Any:
        """The operand itself."""
        try:
            return values.object_at(pointer)
        except values.Unreadable:
            raise Undecided("an operand is gone") from None

    @lazy
    def given(self) -> list[Any]:
        """The arguments of the call that ``outer`` makes."""
        op, arg = self.step.op, self.step.arg
        if op == _CALL_EX:
            packed = self.operand(self.pointer(self.depth - (arg & 1) - 1))
            # C makes a tuple of a list, but leaves the list on the stack.
            return list(packed) if is_any(type(packed), (tuple, list)) else []
        last = self.depth - (op == _CALL_KW)
        pointers = [self.pointer(index) for index in range(last - arg, last)]
        return [self.operand(pointer) for pointer in pointers]

    def calls_on(self, pointers: list[int]) -> bool:
        """Whether ``inner`` is a method of one of the operands."""
        return bool(self.arguments) and id(self.first) in pointers

    @lazy
    def callable_pointer(self) -> int:
        """Address of what the instruction calls."""
        op, arg = self.step.op, self.step.arg
        if op == _CALL_EX:
            return self.pointer(self.depth - (arg & 1) - 2 - _SINCE_13)
        first = self.depth - arg - 2 - (op == _CALL_KW)
        # [method, self] or [NULL, callable] before 3.13, [callable, self or NULL]
        # since. Behind a finished call the first of the two is its result: alive,
        # too, where the second is not any more.
        pointer = self.pointer(first)
        return pointer or self.pointer(first + 1)
