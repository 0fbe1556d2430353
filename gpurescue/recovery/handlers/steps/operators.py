"""Tests, operators and displays, on values that are known."""

from __future__ import annotations

import dis
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gpurescue.recovery.handlers import known
from gpurescue.recovery.handlers.abstract import (
    NONE,
    UNKNOWN,
    Known,
    Listed,
    Value,
)
from gpurescue.recovery.handlers.objects import (
    SCALARS,
    boolean,
    is_any,
    is_exception,
    matches,
)
from gpurescue.recovery.handlers.paths import Path
from gpurescue.recovery.handlers.steps.registry import (
    SINCE_12,
    SINCE_13,
    is_true,
    pop,
    step,
)
from gpurescue.recovery.handlers.tables import Instruction

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Run


_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
# The NB_ numbers of Include/opcode.h; in-place ones are 13 higher.
_BINARY: Final[dict[int, Callable[[Any, Any], Any]]] = {
    0: operator.add, 1: operator.and_, 2: operator.floordiv, 6: operator.mod,
    7: operator.or_, 10: operator.sub, 11: operator.truediv, 12: operator.xor,
}  # fmt: skip


_FIXED: Final = (str, tuple, frozenset)


def _scalars(run: Run, taken: list[Value]) -> tuple[Any, ...] | None:
    """The operands if all are exact builtin scalars."""
    operands = [run.resolve(value) for value in taken]
    found = tuple(value.value for value in operands if isinstance(value, Known))
    if len(found) == len(taken) and all(is_any(type(v), SCALARS) for v in found):
        return found
    return None


def _computed(function: Callable[..., Any], operands: tuple[Any, ...] | None) -> Value:
    if operands is None:
        return UNKNOWN
    try:
        return Known(function(*operands))
    except (TypeError, ValueError, ArithmeticError):  # the program raises it, too
        return UNKNOWN


@step("COMPARE_OP")
def _compare(run: Run, path: Path, at: Instruction) -> None:
    index = at.arg >> 5 if SINCE_13 else at.arg >> 4 if SINCE_12 else at.arg
    name = dis.cmp_op[index]
    taken = [run.resolve(value) for value in pop(path, 2)]
    result = _computed(_COMPARE[name], _scalars(run, taken))
    if result is UNKNOWN and name in ("==", "!="):
        same = _same_class(taken)
        result = boolean(None if same is None else same is (name == "=="))
    path.stack.append(result)


def _same_class(taken: list[Value]) -> bool | None:
    """Compare two classes, unless a metaclass has its own idea of it."""
    found = [value.value for value in taken if isinstance(value, Known)]
    if len(found) == 2 and all(type(value) is type for value in found):
        return found[0] is found[1]
    return None


@step("IS_OP")
def _is(run: Run, path: Path, at: Instruction) -> None:
    left, right = (run.resolve(value) for value in pop(path, 2))
    if isinstance(left, Known) and isinstance(right, Known):
        path.stack.append(boolean((left.value is right.value) is not bool(at.arg)))
    elif NONE in (left, right) and is_exception(right if left == NONE else left):
        path.stack.append(boolean(bool(at.arg)))
    else:
        path.stack.append(UNKNOWN)


@step("CONTAINS_OP")
def _contains(run: Run, path: Path, at: Instruction) -> None:
    item, where = (run.resolve(value) for value in pop(path, 2))
    if not (isinstance(where, Known) and is_any(type(where.value), _FIXED)):
        run.reads = None
    found = _is_in(path, item, where)
    path.stack.append(boolean(None if found is None else found is not bool(at.arg)))


def _is_in(path: Path, item: Value, where: Value) -> bool | None:
    if not isinstance(item, Known) or not isinstance(where, Known):
        return None
    if type(where.value) is str:
        return item.value in where.value if type(item.value) is str else None
    members = _members(path, where.value)
    if members is None:
        return None
    if is_any(type(item.value), SCALARS):
        plain = all(is_any(type(member), SCALARS) for member in members)
        return item.value in members if plain else None
    if type(item.value) is type and all(type(member) is type for member in members):
        return is_any(item.value, tuple(members))
    return None


def _members(path: Path, where: Any) -> list[Any] | None:
    """The members of an exact builtin container that no code has changed."""
    if type(where) is tuple or type(where) is frozenset:
        return list(where)
    if not path.dirty and is_any(type(where), (list, set, dict)):
        return list(where)
    return None


@step("UNARY_NOT")
def _not(run: Run, path: Path, at: Instruction) -> None:
    found = is_true(run, path, path.stack.pop())
    path.stack.append(boolean(None if found is None else not found))


@step("TO_BOOL")  # 3.13
def _to_bool(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(boolean(is_true(run, path, path.stack.pop())))


@step("BINARY_OP")
def _binary(run: Run, path: Path, at: Instruction) -> None:
    function = _BINARY.get(at.arg % 13)
    taken = pop(path, 2)
    operands = _scalars(run, taken) if function else None
    if operands and is_any(type(operands[0]), (str, bytes)) and at.arg % 13:
        operands = None  # "..." % values
    path.stack.append(_computed(function, operands) if function else UNKNOWN)


@step("BINARY_SUBSCR")
def _subscript(run: Run, path: Path, at: Instruction) -> None:
    where, key = (run.resolve(value) for value in pop(path, 2))
    path.stack.append(known.item(path, where, key))


@step("BUILD_TUPLE")
def _build_tuple(run: Run, path: Path, at: Instruction) -> None:
    items = tuple(run.resolve(value) for value in pop(path, at.arg))
    path.stack.append(known.packed(items))


@step("BUILD_LIST")
def _build_list(run: Run, path: Path, at: Instruction) -> None:
    items = tuple(run.resolve(value) for value in pop(path, at.arg))
    path.stack.append(Listed(items))


@step("LIST_APPEND")
def _list_append(run: Run, path: Path, at: Instruction) -> None:
    item = run.resolve(path.stack.pop())
    held = path.stack[-at.arg]
    # Only the lists of except* matter; others grow without end in a loop.
    if isinstance(held, Listed) and (item == NONE or is_exception(item)):
        path.stack[-at.arg] = Listed((*held.items, item))
    else:
        path.stack[-at.arg] = UNKNOWN


@step("LIST_EXTEND")
def _list_extend(run: Run, path: Path, at: Instruction) -> None:
    more = known.unpacked(run.resolve(path.stack.pop()))
    held = path.stack[-at.arg]
    if isinstance(held, Listed) and more is not None:
        path.stack[-at.arg] = Listed((*held.items, *more))
    else:
        path.stack[-at.arg] = UNKNOWN


@step("LIST_TO_TUPLE")  # 3.11
def _list_to_tuple(run: Run, path: Path, at: Instruction) -> None:
    held = path.stack.pop()
    path.stack.append(known.packed(held.items) if isinstance(held, Listed) else UNKNOWN)


@step("UNPACK_SEQUENCE")
def _unpack(run: Run, path: Path, at: Instruction) -> None:
    items = known.unpacked(run.resolve(path.stack.pop()))
    if items is None or len(items) != at.arg:
        items = (UNKNOWN,) * at.arg
    path.stack += reversed(items)


@step("CALL_INTRINSIC_1")  # 3.12; numbers of Include/internal/pycore_intrinsics.h
def _intrinsic(run: Run, path: Path, at: Instruction) -> None:
    if at.arg == 6:  # INTRINSIC_LIST_TO_TUPLE
        _list_to_tuple(run, path, at)
        return
    value = run.resolve(path.stack.pop())
    if at.arg == 3:  # INTRINSIC_STOPITERATION_ERROR
        stops = matches(value, Known((StopIteration, StopAsyncIteration)))
        path.stack.append(value if stops is False else UNKNOWN)
    else:
        path.stack.append(UNKNOWN)
