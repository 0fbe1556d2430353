"""The table of steps, and the instructions that only move the stack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gpurescue.recovery.handlers.abstract import UNKNOWN, Known, Value
from gpurescue.recovery.handlers.objects import is_any, truth
from gpurescue.recovery.handlers.paths import Outcome, Path, Undecided
from gpurescue.recovery.handlers.tables import OP, Instruction, effect

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Run


Step = Callable[["Run", Path, Instruction], bool | None]

SINCE_12: Final = sys.version_info >= (3, 12)
SINCE_13: Final = sys.version_info >= (3, 13)

STEPS: list[Step | None] = [None] * 256


def step(*names: str) -> Callable[[Step], Step]:
    """Register a step for the opcodes of these names."""

    def register(perform: Step) -> Step:
        for name in names:
            if name in OP:
                STEPS[OP[name]] = perform
        return perform

    return register


def is_true(run: Run, path: Path, value: Value) -> bool | None:
    """``bool(value)``; of a container that code may have changed, unknown."""
    value = run.resolve(value)
    if path.dirty and isinstance(value, Known):
        if is_any(type(value.value), (list, dict, set)):
            return None
    return truth(value)


def finish_call(run: Run, path: Path, at: Instruction, outcomes: list[Outcome]) -> bool:
    """Go on in each way that a call, or an ``__exit__``, may end."""
    going_on: list[Path] = []
    for outcome in outcomes:
        branch = path.fork()
        branch.dirty = branch.dirty or outcome.dirty or outcome.stored
        branch.stored = branch.stored or outcome.stored
        if outcome.raised is None:
            branch.stack.append(outcome.value)
        elif run.throw(branch, outcome.raised, at.start):
            continue
        if not run.is_known(branch):
            going_on.append(branch)
    run.waiting += going_on
    return True


def pop(path: Path, count: int) -> list[Value]:
    """Take ``count`` values from the stack, lowest first."""
    if count > len(path.stack):
        raise Undecided("the stack is empty")
    taken = path.stack[len(path.stack) - count :]
    del path.stack[len(path.stack) - count :]
    return taken


@step(
    "NOP", "RESUME", "PRECALL", "CACHE", "COPY_FREE_VARS", "SETUP_ANNOTATIONS",
    "GET_AWAITABLE",
)  # fmt: skip
def _nothing(run: Run, path: Path, at: Instruction) -> None:
    return None


_TAKES: dict[str, int | Callable[[int], int]] = {
    "UNARY_POSITIVE": 1, "UNARY_NEGATIVE": 1, "UNARY_INVERT": 1, "GET_LEN": 0,
    "MATCH_MAPPING": 0, "MATCH_SEQUENCE": 0, "MATCH_KEYS": 0, "MATCH_CLASS": 3,
    "GET_AITER": 1, "STORE_SUBSCR": 3, "DELETE_SUBSCR": 2,
    "BINARY_SLICE": 3, "STORE_SLICE": 4, "GET_ITER": 1, "GET_YIELD_FROM_ITER": 1,
    "PRINT_EXPR": 1, "LOAD_BUILD_CLASS": 0, "IMPORT_STAR": 1, "LOAD_CLOSURE": 0,
    "LOAD_LOCALS": 0, "ASYNC_GEN_WRAP": 1, "UNPACK_EX": 1, "CONVERT_VALUE": 1,
    "FORMAT_SIMPLE": 1, "FORMAT_WITH_SPEC": 2, "SET_ADD": 1, "MAP_ADD": 2,
    "SET_UPDATE": 1, "DICT_MERGE": 1, "DICT_UPDATE": 1, "DELETE_ATTR": 1,
    "SET_FUNCTION_ATTRIBUTE": 2,
    "BUILD_SET": lambda arg: arg, "BUILD_MAP": lambda arg: 2 * arg,
    "BUILD_STRING": lambda arg: arg, "BUILD_SLICE": lambda arg: arg,
    "BUILD_CONST_KEY_MAP": lambda arg: arg + 1,
    "FORMAT_VALUE": lambda arg: 1 + (arg & 4 == 4),
    "MAKE_FUNCTION": lambda arg: 1 + (0 if SINCE_13 else (arg & 15).bit_count()),
    "END_FOR": 1 if SINCE_13 else 2,
}  # fmt: skip
_CHANGES: Final = ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "DELETE_ATTR")


def _opaque(name: str) -> Step:
    """A step that only moves the stack."""
    op, takes, changes = OP[name], _TAKES[name], name in _CHANGES

    def perform(run: Run, path: Path, at: Instruction) -> None:
        count = takes if isinstance(takes, int) else takes(at.arg)
        pop(path, count)
        gives = effect(op, at.arg, jump=False) + count
        path.stack.extend([UNKNOWN] * gives)
        path.dirty = path.dirty or changes
        path.stored = path.stored or changes

    return perform


for _name in _TAKES:
    if _name in OP:
        STEPS[OP[_name]] = _opaque(_name)
