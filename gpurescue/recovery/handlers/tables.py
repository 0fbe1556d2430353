"""What a code object says of itself: instructions, exception table, stack depth.

Everything is computed on demand and cached per code object, because a decision must
stay cheap also when a frame runs a function of ten thousand instructions.
"""

from __future__ import annotations

import bisect
import dis
import opcode
import threading
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

OP = {name: op for name, op in dis.opmap.items() if op < 256}  # no pseudo ones
EXTENDED_ARG = OP["EXTENDED_ARG"]
CALL = OP["CALL"]
PRECALL = OP.get("PRECALL", -1)

_KEPT = 4096
# Threads share the listings. Reentrant: a finaliser may be guarded, too.
_following = threading.RLock()


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of an exception table; offsets in bytes, ``end`` exclusive."""

    start: int
    end: int
    target: int
    depth: int
    lasti: bool


class Instruction(NamedTuple):
    """One decoded instruction; ``after`` lies behind its inline caches."""

    op: int
    arg: int
    start: int
    after: int


def ops(*names: str) -> frozenset[int]:
    """The opcodes of these names, as far as this interpreter has them."""
    return frozenset(OP[name] for name in names if name in OP)


def _cache_sizes() -> list[int]:
    """How many inline CACHE units follow each opcode."""
    entries = opcode._inline_cache_entries  # type: ignore[attr-defined]
    if isinstance(entries, list):  # 3.11 and 3.12: by opcode
        return (entries + [0] * 256)[:256]
    sizes = [0] * 256  # 3.13: by name
    for name, size in entries.items():
        if name in OP:
            sizes[OP[name]] = size
    return sizes


CACHES = _cache_sizes()
JUMPS = frozenset(dis.hasjrel)
BACKWARD = frozenset(op for name, op in OP.items() if "JUMP_BACKWARD" in name)
ALWAYS_JUMPS = ops("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT")
ENDS = ALWAYS_JUMPS | ops("RETURN_VALUE", "RETURN_CONST", "RERAISE", "RAISE_VARARGS")


def _fixed_effects() -> list[int | None]:
    """Stack effect of the opcodes whose effect does not depend on their argument."""
    effects: list[int | None] = [None] * 256
    for op in OP.values():
        if op < dis.HAVE_ARGUMENT:
            try:
                effects[op] = dis.stack_effect(op)
            except ValueError:  # an opcode that the compiler never emits
                continue
    for name in ("LOAD_FAST", "LOAD_CONST", "LOAD_DEREF", "LOAD_FAST_CHECK"):
        if name in OP:
            effects[OP[name]] = 1
    # dis says 0 before 3.13, but whoever resumes a generator pushes a value.
    effects[OP["RETURN_GENERATOR"]] = 1
    # Compilers charge the arguments of a call to PRECALL; the evaluation loop of
    # 3.11 leaves them on the stack until CALL (see effect()).
    if PRECALL >= 0:
        effects[PRECALL] = 0
    return effects


_EFFECTS = _fixed_effects()


def effect(op: int, arg: int, *, jump: bool) -> int:
    """What one instruction does to the depth of the value stack."""
    fixed = _EFFECTS[op]
    if fixed is not None:
        return fixed
    if op == CALL and PRECALL >= 0:
        return -arg - 1
    return dis.stack_effect(op, arg if op >= dis.HAVE_ARGUMENT else None, jump=jump)


def parse_exception_table(table: bytes) -> list[tuple[int, int, int, int]]:
    """Decode ``co_exceptiontable`` to (start, size, target, depth and lasti) rows.

    The format is that of Objects/exception_handling_notes.txt: big-endian groups of
    six bits, bit 6 says that more follow; offsets count code units of two bytes.
    """
    numbers: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            numbers.append(value)
            value = 0
    return list(zip(*[iter(numbers)] * 4, strict=True))


class Listing:
    """The lazily decoded bytecode of one code object."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        # De-specialised and without instrumentation, whatever runs; CACHE units are 0.
        self.bytes = code.co_code
        self.rows = parse_exception_table(code.co_exceptiontable)
        self.starts = [row[0] for row in self.rows]
        self.slots = _count_slots(code)
        self.landings: dict[int, object] = {}
        self.targets: dict[int, bool] = {}
        self.clear: set[int] = set()  # places that an exception leaves as it is
        self.facts: dict[str, bool] = {}
        self.answers: dict[object, list[Any]] = {}  # those of memory.py
        self.tries: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._named: dict[tuple[str, ...], frozenset[int]] = {}
        self.decoded: dict[int, Instruction] = {}
        self._running: dict[int, Instruction] = {}
        self._depths: dict[int, int] = {}
        self._waiting: list[tuple[int, int]] = [(0, 0)]  # (offset, depth)

    def at(self, offset: int) -> Instruction:
        """The instruction that starts at ``offset``, its prefixes included."""
        found = self.decoded.get(offset)
        if found is None:
            found = self.decoded[offset] = self._decode(offset)
        return found

    def _decode(self, offset: int) -> Instruction:
        units = self.bytes
        at = offset
        op, arg = units[at], units[at + 1]
        while op == EXTENDED_ARG:
            at += 2
            op, arg = units[at], arg << 8 | units[at + 1]
        return Instruction(op, arg, offset, at + 2 + 2 * CACHES[op])

    def variable(self, index: int) -> str:
        """The name of local variable, cell or free variable number ``index``."""
        found = self._names.get(index)
        if found is None:
            name_of = self.code._varname_from_oparg  # type: ignore[attr-defined]
            found = self._names[index] = name_of(index)
        return found

    def named(self, prefixes: tuple[str, ...]) -> frozenset[int]:
        """The numbers of the variables whose names begin with one of ``prefixes``."""
        found = self._named.get(prefixes)
        if found is None:
            numbers = range(self.slots)
            found = self._named[prefixes] = frozenset(
                number
                for number in numbers
                if self.variable(number).startswith(prefixes)
            )
        return found

    def start_of(self, lasti: int) -> int:
        """Where the instruction begins that ``f_lasti`` points into.

        ``f_lasti`` may stand in the inline cache behind it, and stands behind
        the EXTENDED_ARG prefixes.
        """
        units = self.bytes
        while lasti > 0 and not units[lasti]:
            lasti -= 2
        while lasti >= 2 and units[lasti - 2] == EXTENDED_ARG:
            lasti -= 2
        return lasti

    def running(self, lasti: int) -> Instruction:
        """The instruction a frame stands in; the CALL for its PRECALL (3.11)."""
        found = self._running.get(lasti)
        if found is None:
            found = self.at(self.start_of(lasti))
            if found.op == PRECALL:  # a specialised PRECALL runs C functions itself
                found = self.at(found.after)
            self._running[lasti] = found
        return found

    def entry(self, offset: int) -> Entry | None:
        """The innermost entry that covers ``offset``: entries never overlap."""
        unit = offset >> 1
        index = bisect.bisect_right(self.starts, unit) - 1
        if index < 0:
            return None
        start, size, target, depth_lasti = self.rows[index]
        if unit >= start + size:
            return None
        return Entry(
            2 * start, 2 * (start + size), 2 * target,
            depth_lasti >> 1, bool(depth_lasti & 1),
        )  # fmt: skip

    def depth(self, offset: int) -> int:
        """Depth of the value stack before the instruction at ``offset``, or -1."""
        found = self._depths.get(offset)
        if found is None:
            with _following:
                found = self._find_depth(offset)
        return found

    def _find_depth(self, offset: int) -> int:
        while offset not in self._depths:
            if not self._waiting and not self._add_handlers():
                return -1
            self._follow(*self._waiting.pop())
        return self._depths[offset]

    def _add_handlers(self) -> bool:
        """Go on with the handlers, which no jump leads to; False if all are known."""
        for _, _, target, depth_lasti in self.rows:
            if 2 * target not in self._depths:
                depth = (depth_lasti >> 1) + (depth_lasti & 1) + 1
                self._waiting.append((2 * target, depth))
        return bool(self._waiting)

    def _follow(self, offset: int, depth: int) -> None:
        """Go through straight code; leave the targets of its jumps for later.

        Decodes by itself: this is what a large function is slow by.
        """
        depths, units, end = self._depths, self.bytes, len(self.bytes)
        while offset < end and offset not in depths:
            depths[offset] = depth
            op, arg = units[offset], units[offset + 1]
            while op == EXTENDED_ARG:
                offset += 2
                op, arg = units[offset], arg << 8 | units[offset + 1]
            offset += 2 + 2 * CACHES[op]
            if op in JUMPS:
                target = offset + (-2 * arg if op in BACKWARD else 2 * arg)
                self._waiting.append((target, depth + effect(op, arg, jump=True)))
            if op in ENDS:
                return
            fixed = _EFFECTS[op]
            depth += effect(op, arg, jump=False) if fixed is None else fixed


def jump_target(instruction: Instruction) -> int:
    """Where a jump goes to."""
    distance = 2 * instruction.arg
    if instruction.op in BACKWARD:
        distance = -distance
    return instruction.after + distance


_listings: dict[int, Listing] = {}
_NOWHERE: frozenset[int] = frozenset()


def listing(code: CodeType) -> Listing:
    """The cached listing of ``code``.

    Keyed by identity: code objects compare and hash by value, which is slow. The
    listing keeps its code object alive, so an id cannot come to mean another one.
    """
    found = _listings.get(id(code))
    if found is None:
        if len(_listings) >= _KEPT:
            _listings.clear()
        found = _listings[id(code)] = Listing(code)
    return found


def clear_places(code: CodeType) -> set[int] | frozenset[int]:
    """Offsets in ``code`` that are known to have no handler."""
    found = _listings.get(id(code))
    return _NOWHERE if found is None else found.clear


def depth_at(code: CodeType, offset: int) -> int:
    """Static value-stack depth before the instruction at byte ``offset``.

    ``offset`` may be an ``f_lasti`` inside an instruction. -1 for unreachable code.
    """
    known = listing(code)
    if not 0 <= offset < len(known.bytes):
        return -1
    return known.depth(known.start_of(offset))


def _count_slots(code: CodeType) -> int:
    """``co_nlocalsplus``, which Python does not show: its names say where it ends."""
    count = len(set(code.co_varnames) | set(code.co_cellvars)) + len(code.co_freevars)
    names = code._varname_from_oparg  # type: ignore[attr-defined]
    if count:
        names(count - 1)
    try:
        names(count)
    except IndexError:
        return count
    raise LookupError(f"{code!r} has more than {count} local variables")
