"""The state of an abstract execution: one path through one frame's code."""

from __future__ import annotations

from types import CellType, CodeType, FrameType, FunctionType
from typing import Any, NamedTuple, Protocol

from gpurescue.recovery.handlers import values
from gpurescue.recovery.handlers.abstract import (
    NULL,
    UNKNOWN,
    Known,
    Local,
    Previous,
    Slot,
    Value,
)
from gpurescue.recovery.handlers.objects import is_exception, is_stable
from gpurescue.recovery.handlers.tables import Listing, listing


class Undecided(Exception):
    """The outcome depends on something that cannot be known: let it pass."""


class Outcome(NamedTuple):
    """How one path through a frame's code ends.

    Attributes:
        raised: The exception that leaves the frame, or None if it returns.
        value: What it returns.
        dirty: Code ran on the way that may have changed data.
        stored: It was seen to store attributes, items or global names.
    """

    raised: Value | None
    value: Value = UNKNOWN
    dirty: bool = False
    stored: bool = False


class Effects(Protocol):
    """What code that ran before may have changed."""

    @property
    def dirty(self) -> bool:
        """Anything, by calls."""
        ...

    @property
    def stored(self) -> bool:
        """Attributes, items or global names, by itself."""
        ...


class Path:
    """One path: where it is, what it knows of the stack and of what it stored.

    ``variables`` overlays the real frame: fast locals by number, cells as ("cell",
    number), names by name, attributes by (id of the owner, name).
    """

    __slots__ = (
        "current", "dirty", "handled", "keywords", "offset", "stack", "stored",
        "variables",
    )  # fmt: skip

    def __init__(self, offset: int, stack: list[Value]) -> None:
        self.offset = offset
        self.stack = stack
        self.variables: dict[object, Value] = {}
        self.current: Value = UNKNOWN
        self.dirty = False
        self.stored = False
        self.handled = False
        self.keywords: tuple[str, ...] = ()

    def fork(self) -> Path:
        """A second path from here."""
        other = Path(self.offset, self.stack.copy())
        other.variables = self.variables.copy()
        other.current = self.current
        other.dirty = self.dirty
        other.stored = self.stored
        other.handled = self.handled
        other.keywords = self.keywords
        return other

    def signature(self) -> object:
        """Equal for two paths that will go on alike."""
        known = frozenset(self.variables.items())
        return (self.offset, tuple(self.stack), known, self.current, self.dirty)

    def settled(self, value: Value) -> Value:
        """``value`` if no code that ran on this path can have replaced it."""
        if self.dirty and isinstance(value, Known) and not is_stable(value.value):
            return UNKNOWN
        return value

    def unwind(self, depth: int) -> None:
        """Cut the stack down to ``depth``, as an exception does."""
        if len(self.stack) < depth:
            raise Undecided("the stack is shallower than its exception table says")
        for value in self.stack[depth:]:
            if isinstance(value, Previous):
                self.current = value.value
                break
        del self.stack[depth:]

    def is_handling(self) -> bool:
        """Whether a handler entered on this path has not been left yet."""
        for value in self.stack:
            if value.__class__ is Previous:
                return True
        return False

    def keeps_exception(self) -> bool:
        """Whether an exception is still at hand, to be raised after all."""
        for values_held in (self.stack, self.variables.values()):
            for value in values_held:
                if is_exception(value):
                    return True
        return False


class Scope:
    """Where the code of a called function finds its names."""

    def __init__(
        self, code: CodeType, names: dict[str, Any], builtins: dict[str, Any]
    ) -> None:
        self.code = code
        self.listing: Listing = listing(code)
        self.constants = code.co_consts
        self.globals = names
        self.builtins = builtins

    def fast(self, index: int) -> Value:
        """Local variable number ``index`` at the start."""
        return UNKNOWN

    def cell(self, index: int) -> Value:
        """What the cell in local variable ``index`` holds."""
        return UNKNOWN

    def slot(self, index: int) -> Value:
        """Slot ``index`` of the value stack."""
        return UNKNOWN

    def name(self, name: str) -> Value:
        """A global or builtin name."""
        found = dict.get(self.globals, name, NULL)
        if found is NULL:
            found = dict.get(self.builtins, name, NULL)
        return UNKNOWN if found is NULL else Known(found)

    def local_name(self, name: str) -> Value:
        """A name in module or class code."""
        return self.name(name)

    @property
    def is_module(self) -> bool:
        """Whether its variables are the global names."""
        return False


class FunctionScope(Scope):
    """The scope of a call that is only imagined."""

    def __init__(self, function: FunctionType) -> None:
        builtins: dict[str, Any] = getattr(function, "__builtins__", {})
        super().__init__(function.__code__, function.__globals__, builtins)
        self.function = function

    def cell(self, index: int) -> Value:
        """What a free variable holds."""
        free = index - (self.listing.slots - len(self.code.co_freevars))
        closure = self.function.__closure__
        if closure is None or not 0 <= free < len(closure):
            return UNKNOWN
        return contents(closure[free])


# A guard's continuation is None again before a handler of the user's can run.
CONTINUATIONS = ("__gr_k", "__gr_l")
NO_CONTINUATION = Known(None)


class FrameScope(Scope):
    """The scope of a live frame; its values are read when they are asked for."""

    def __init__(self, frame: FrameType) -> None:
        super().__init__(frame.f_code, frame.f_globals, frame.f_builtins)
        self.frame = frame

    def fast(self, index: int) -> Value:
        """Local variable number ``index`` as it is now."""
        if index in self.listing.named(CONTINUATIONS):
            return NO_CONTINUATION
        if not values.available():
            return self._by_name(index)
        try:
            return Known(values.local(self.frame, index))
        except values.Unreadable:
            return UNKNOWN

    def _by_name(self, index: int) -> Value:
        # Not the first choice: before 3.13 it makes the frame keep a copy of all its
        # locals, and with them the memory they hold.
        name = self.listing.variable(index)
        found = self.frame.f_locals
        return Known(found[name]) if name in found else UNKNOWN

    def cell(self, index: int) -> Value:
        """What the cell in local variable ``index`` holds now."""
        held = self.fast(index)
        if isinstance(held, Known) and type(held.value) is CellType:
            return contents(held.value)
        return UNKNOWN if values.available() else held

    def slot(self, index: int) -> Value:
        """Slot ``index`` of the frame's value stack."""
        if not values.available():
            return UNKNOWN
        try:
            return Known(values.slot(self.frame, index))
        except values.Unreadable:
            return NULL

    def local_name(self, name: str) -> Value:
        """A name in module or class code."""
        if name.startswith(CONTINUATIONS):
            return NO_CONTINUATION
        names = self.frame.f_locals
        if type(names) is dict and name in names:
            return Known(names[name])
        return self.name(name) if type(names) is dict else UNKNOWN

    @property
    def is_module(self) -> bool:
        """Whether its variables are the global names."""
        return self.frame.f_locals is self.globals


def contents(cell: CellType) -> Value:
    """What a cell holds now."""
    try:
        return Known(cell.cell_contents)
    except ValueError:
        return UNKNOWN


LOCALS = [Local(index) for index in range(256)]
_SLOTS = [Slot(index) for index in range(64)]


def live_stack(depth: int) -> list[Value]:
    """The first ``depth`` slots of a live frame, to be read on demand."""
    while len(_SLOTS) < depth:
        _SLOTS.append(Slot(len(_SLOTS)))
    return list(_SLOTS[:depth])
