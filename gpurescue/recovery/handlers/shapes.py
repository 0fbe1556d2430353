"""Handlers that re-raise whatever they catch, recognised without running anything.

Most rows of an exception table are such: our own guards, ``finally`` blocks, the
clean-up code behind every ``except`` clause. What is left is a handler that must be
executed abstractly; ``landing`` finds it, and caches what it found.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import CodeType

from gpurescue.recovery.handlers.tables import (
    ALWAYS_JUMPS,
    ENDS,
    JUMPS,
    OP,
    Entry,
    Instruction,
    Listing,
    jump_target,
    listing,
    ops,
)

GUARDS = "gpurescue.recovery.guards"
HIDDEN = "__gr_"  # the variables of the guards themselves

_LONGEST = 400
_GUARD_PREFIX = 14
_GUARD_QUESTION = 40  # instructions, up to the number of the block

_LOAD_GLOBAL = OP["LOAD_GLOBAL"]
_LOAD_NAMES = ops("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_RERAISE = OP["RERAISE"]
_RAISE = OP["RAISE_VARARGS"]
_MATCH = OP["CHECK_EXC_MATCH"]
_SEND = OP["SEND"]
_STORES = ops("STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL")
_NAMED_STORES = ops("STORE_NAME", "STORE_GLOBAL")
_RETURNS = ops("RETURN_VALUE", "RETURN_CONST")
_CALLS = ops("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_CHANGES = ops(
    "STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE", "DELETE_ATTR", "DELETE_SUBSCR",
)  # fmt: skip
_EFFECTS = _CALLS | _CHANGES | ops("BEFORE_WITH", "BEFORE_ASYNC_WITH", "SEND")
# After any of these a handler may end otherwise than by raising what it caught.
_OPEN = ops(
    "RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE", "POP_EXCEPT", "CLEANUP_THROW",
    "END_ASYNC_FOR", "WITH_EXCEPT_START", "CHECK_EG_MATCH", "STORE_FAST_LOAD_FAST",
    "STORE_FAST_STORE_FAST", "STORE_GLOBAL",
)  # fmt: skip
_LOAD_CONST = OP["LOAD_CONST"]
_PADDING = ops("NOP", "PUSH_NULL")
_GUARD_LOADS = _PADDING | ops(
    "LOAD_CONST", "LOAD_ATTR", "LOAD_METHOD", "PRECALL", "CALL"
)
_PAD = (OP["COPY"], OP["POP_EXCEPT"], _RERAISE)
_UNBIND = (
    (OP["LOAD_CONST"],),
    _STORES,
    ops("DELETE_FAST", "DELETE_NAME", "DELETE_DEREF", "DELETE_GLOBAL"),
    (_RERAISE,),
)


@dataclass(frozen=True, slots=True)
class Landing:
    """The first handler for an offset whose outcome is not plain from its shape.

    Attributes:
        entry: Its row in the exception table; None if the exception leaves the frame.
        effects: The code that runs on the way there may change data it looks at.
        stores: It changes attributes or items itself.
    """

    entry: Entry | None
    effects: bool
    stores: bool = False


@dataclass(frozen=True, slots=True)
class _Reraise:
    """A handler that always re-raises, and from where."""

    offsets: tuple[int, ...]
    effects: bool = False
    stores: bool = False


def landing(code: Listing, offset: int) -> Landing:
    """Where an exception raised at ``offset`` lands after all plain re-raises."""
    found = code.landings.get(offset)
    if found is None:
        found = code.landings[offset] = _land(code, offset)
    assert isinstance(found, Landing)
    return found


def _land(code: Listing, offset: int) -> Landing:
    entry = code.entry(offset)
    if entry is None:
        return Landing(None, effects=False)
    if is_guard(code.code, entry.target):
        return landing(code, entry.target)
    shape = _reraise(code, entry.target)
    if shape is None:
        return Landing(entry, effects=False)
    further = {landing(code, raised) for raised in shape.offsets}
    if len({found.entry for found in further}) != 1:
        return Landing(entry, effects=False)
    effects = shape.effects or any(found.effects for found in further)
    stores = shape.stores or any(found.stores for found in further)
    return Landing(next(iter(further)).entry, effects, stores)


def is_guard(code: CodeType, target: int) -> bool:
    """Whether the handler at byte offset ``target`` is one of our own guards.

    Its shape: PUSH_EXC_INFO, POP_TOP, then ``__import__`` and the name of the module
    of guards are loaded. A guard either suspends or raises what it caught.
    """
    known = listing(code)
    found = known.targets.get(target)
    if found is None:
        found = known.targets[target] = _has_guard_shape(known, target)
    return found


def guarding_block(code: CodeType, offset: int) -> int | None:
    """The number of the block whose guard gets what is raised at byte ``offset``.

    None where somebody else gets it first. It need not be the block that the source
    shows: of a ``continue`` in a ``try`` the jump itself lies outside.
    """
    entry = listing(code).entry(offset)
    if entry is None or not is_guard(code, entry.target):
        return None
    return _asked_block(listing(code), entry.target)


def _asked_block(code: Listing, target: int) -> int | None:
    """The number that the guard at ``target`` asks with: its first one."""
    at = target
    for _ in range(_GUARD_QUESTION):
        step = code.at(at)
        if step.op == _LOAD_CONST and type(code.code.co_consts[step.arg]) is int:
            return int(code.code.co_consts[step.arg])
        at = step.after
        if at >= len(code.bytes):
            break
    return None


def _has_guard_shape(code: Listing, target: int) -> bool:
    first = code.at(target)
    second = code.at(first.after)
    if first.op != OP["PUSH_EXC_INFO"] or second.op != OP["POP_TOP"]:
        return False
    at, imports = second.after, False
    for _ in range(_GUARD_PREFIX):
        if at >= len(code.bytes):
            return False
        step = code.at(at)
        if not imports and step.op not in _PADDING:
            if loaded_name(code.code, step) != "__import__":
                return False
            imports = True
        elif step.op == _LOAD_CONST and _is_guards(code.code.co_consts[step.arg]):
            return True
        elif step.op not in _GUARD_LOADS:
            return False
        at = step.after
    return False


def _is_guards(constant: object) -> bool:
    return type(constant) is str and constant == GUARDS


def loaded_name(code: CodeType, step: Instruction) -> str | None:
    """The name that a LOAD_GLOBAL or LOAD_NAME loads."""
    if step.op == _LOAD_GLOBAL:
        return code.co_names[step.arg >> 1]
    if step.op in _LOAD_NAMES:
        return code.co_names[step.arg]
    return None


def stored_name(code: CodeType, step: Instruction) -> str:
    """The name of the variable that a store stores to."""
    if step.op in _NAMED_STORES:
        return code.co_names[step.arg]
    name: str = code._varname_from_oparg(step.arg)  # type: ignore[attr-defined]
    return name


def _reraise(code: Listing, target: int) -> _Reraise | None:
    """The handler at ``target`` if each way through it raises what it caught."""
    steps = _ahead(code, target, 4)
    if tuple(step.op for step in steps[:3]) == _PAD:
        return _Reraise((steps[2].start,))
    if _unbinds(code, steps):
        return _Reraise((steps[3].start,))
    return _Explorer(code).explore(target)


def may_return(code: Listing) -> bool:
    """Whether a call of ``code`` has a way to return, other than through a guard."""
    found = code.facts.get("may return")
    if found is None:
        found = code.facts["may return"] = _reaches_return(code)
    return found


def _reaches_return(code: Listing) -> bool:
    waiting, seen = [0], set[int]()
    while waiting:
        offset = waiting.pop()
        while offset not in seen and offset < len(code.bytes):
            seen.add(offset)
            step = code.at(offset)
            if step.op in _RETURNS:
                return True
            entry = code.entry(offset)
            if entry is not None and not is_guard(code.code, entry.target):
                waiting.append(entry.target)
            if step.op in JUMPS:
                waiting.append(jump_target(step))
            if step.op in ENDS:
                break
            offset = step.after
    return False


def _unbinds(code: Listing, steps: list[Instruction]) -> bool:
    """``name = None; del name`` and a re-raise: the end of ``except T as name``."""
    return len(steps) == 4 and all(
        step.op in expected for step, expected in zip(steps, _UNBIND, strict=True)
    )


def _ahead(code: Listing, offset: int, count: int) -> list[Instruction]:
    steps: list[Instruction] = []
    while len(steps) < count and offset < len(code.bytes):
        steps.append(code.at(offset))
        offset = steps[-1].after
    return steps


class _Explorer:
    """Follows every branch of a handler; calls are assumed to return."""

    def __init__(self, code: Listing) -> None:
        self.code = code
        self.waiting: list[int] = []
        self.seen: set[int] = set()
        self.raises: set[int] = set()
        self.is_clause = False
        self.calls = False
        self.effects = False
        self.stores = False

    def explore(self, target: int) -> _Reraise | None:
        self.waiting.append(target)
        start = _ahead(self.code, target, 2)
        self.is_clause = len(start) == 2 and start[1].op == OP["POP_TOP"]
        while self.waiting:
            offset = self.waiting.pop()
            if offset in self.seen:
                continue
            self.seen.add(offset)
            if len(self.seen) > _LONGEST or not self._step(self.code.at(offset)):
                return None
        # What an except clause calls may raise another exception: do not guess.
        if not self.raises or (self.is_clause and self.calls):
            return None
        return _Reraise(tuple(sorted(self.raises)), self.effects, self.stores)

    def _step(self, step: Instruction) -> bool:
        """Queue what follows ``step``; False if it can end the handling."""
        if step.op == _RERAISE or (step.op == _RAISE and step.arg == 0):
            self.raises.add(step.start)
            return True
        if step.op in _OPEN or step.op == _RAISE:
            return False
        self.is_clause = self.is_clause or step.op == _MATCH
        self.calls = self.calls or step.op in _CALLS
        self.effects = self.effects or step.op in _EFFECTS
        self.stores = self.stores or step.op in _CHANGES
        if step.op in _STORES and not self._names_exception(step):
            return False
        if step.op in JUMPS:
            self.waiting.append(jump_target(step))
        # SEND jumps when what is awaited is done, which is assumed.
        if step.op not in ALWAYS_JUMPS and step.op != _SEND:
            self.waiting.append(step.after)
        return True

    def _names_exception(self, step: Instruction) -> bool:
        """Whether a store is the ``as name`` of a clause, or to a hidden name.

        Any other store would change a variable that an outer handler may look at.
        """
        if stored_name(self.code.code, step).startswith(HIDDEN):
            return True
        before = self.code.start_of(step.start - 2)
        test = self.code.start_of(before - 2)
        if self.code.at(test).op == _MATCH and self.code.at(before).op in JUMPS:
            return True
        return False
