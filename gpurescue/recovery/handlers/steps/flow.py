"""Jumps, loops and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gpurescue.recovery.handlers import calls, known
from gpurescue.recovery.handlers.abstract import (
    NULL,
    UNKNOWN,
    Bound,
    Known,
    Listed,
    Value,
)
from gpurescue.recovery.handlers.objects import is_exception
from gpurescue.recovery.handlers.paths import Path
from gpurescue.recovery.handlers.steps.registry import (
    SINCE_12,
    SINCE_13,
    finish_call,
    is_true,
    pop,
    step,
)
from gpurescue.recovery.handlers.tables import (
    OP,
    Instruction,
    effect,
    jump_target,
    ops,
)

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Run


def _jump_if(run: Run, path: Path, at: Instruction, jumps: bool | None) -> bool | None:
    """Go where a test says, or both ways."""
    if jumps is None:
        run.fork(path, jump_target(at))
    elif jumps:
        path.offset = jump_target(at)
    return None


@step("POP_JUMP_IF_TRUE", "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_TRUE")
def _jump_if_true(run: Run, path: Path, at: Instruction) -> bool | None:
    return _jump_if(run, path, at, is_true(run, path, path.stack.pop()))


@step("POP_JUMP_IF_FALSE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_FALSE")
def _jump_if_false(run: Run, path: Path, at: Instruction) -> bool | None:
    found = is_true(run, path, path.stack.pop())
    return _jump_if(run, path, at, None if found is None else not found)


def _is_none(value: Value) -> bool | None:
    if isinstance(value, Known):
        return value.value is None
    return False if is_exception(value) or isinstance(value, Listed | Bound) else None


@step("POP_JUMP_IF_NONE", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NONE")
def _jump_if_none(run: Run, path: Path, at: Instruction) -> bool | None:
    return _jump_if(run, path, at, _is_none(run.resolve(path.stack.pop())))


@step(
    "POP_JUMP_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE",
    "POP_JUMP_BACKWARD_IF_NOT_NONE",
)  # fmt: skip
def _jump_if_not_none(run: Run, path: Path, at: Instruction) -> bool | None:
    found = _is_none(run.resolve(path.stack.pop()))
    return _jump_if(run, path, at, None if found is None else not found)


@step("JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP")  # 3.11
def _jump_or_pop(run: Run, path: Path, at: Instruction) -> None:
    found = is_true(run, path, path.stack[-1])
    wanted = at.op == OP["JUMP_IF_TRUE_OR_POP"]
    if found is None:
        run.fork(path, jump_target(at))
    elif found is wanted:
        path.offset = jump_target(at)
        return
    path.stack.pop()


@step("JUMP_FORWARD")
def _jump_forward(run: Run, path: Path, at: Instruction) -> None:
    path.offset = jump_target(at)


@step("JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT")
def _jump_backward(run: Run, path: Path, at: Instruction) -> bool:
    path.offset = jump_target(at)
    return run.is_known(path)


@step("FOR_ITER")
def _for_iter(run: Run, path: Path, at: Instruction) -> None:
    """Both ways. An exhausted 3.11 loop pops its iterator, later ones END_FOR."""
    if effect(at.op, at.arg, jump=True) < 0:
        held = pop(path, 1)
        run.fork(path, jump_target(at))
        path.stack += held
        path.stack.append(UNKNOWN)
    else:
        path.stack.append(UNKNOWN)
        run.fork(path, jump_target(at))


@step("SEND")
def _send(run: Run, path: Path, at: Instruction) -> None:
    """What is awaited is assumed to be done; a coroutine stands for its result."""
    sent = path.stack.pop()
    del sent
    if SINCE_12:
        path.stack.append(path.stack[-1])
    path.offset = jump_target(at)


@step("END_SEND")  # 3.12
def _end_send(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(pop(path, 2)[1])


@step("RETURN_GENERATOR")
def _return_generator(run: Run, path: Path, at: Instruction) -> None:
    path.stack.append(UNKNOWN)


_LOOKS: Final = ops(
    "POP_JUMP_IF_TRUE", "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_TRUE",
    "POP_JUMP_IF_FALSE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_FALSE",
    "POP_JUMP_IF_NONE", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NONE",
    "POP_JUMP_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE",
    "POP_JUMP_BACKWARD_IF_NOT_NONE", "JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP",
    "TO_BOOL", "UNARY_NOT", "COPY", "COMPARE_OP", "IS_OP", "CONTAINS_OP",
    "CHECK_EXC_MATCH", "CHECK_EG_MATCH", "RAISE_VARARGS", "STORE_FAST",
    "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST",
)  # fmt: skip
_BETWEEN: Final = ops("LOAD_CONST", "LOAD_FAST", "LOAD_GLOBAL", "LOAD_DEREF")


def _is_looked_at(run: Run, at: Instruction) -> bool:
    """Whether the result of a call decides about the exception.

    What a handler returns, or passes on, does not. What a function returns may.
    """
    following = run.at(at.after)
    while following.op in _BETWEEN:
        following = run.at(following.after)
    if following.op == OP["RETURN_VALUE"]:
        return run.handler is None
    return following.op in _LOOKS


def _perform(
    run: Run, path: Path, at: Instruction, callee: Value, arguments: list[Value]
) -> bool | None:
    keywords, path.keywords = path.keywords, ()
    looked_at = _is_looked_at(run, at)
    request = calls.Request(run.resolve(callee), arguments, keywords, looked_at)
    outcomes = calls.perform(run, path, request)
    if len(outcomes) == 1 and outcomes[0].raised is None:
        path.dirty = path.dirty or outcomes[0].dirty or outcomes[0].stored
        path.stored = path.stored or outcomes[0].stored
        path.stack.append(outcomes[0].value)
        return None
    return finish_call(run, path, at, outcomes)


@step("KW_NAMES")  # 3.11, 3.12
def _kw_names(run: Run, path: Path, at: Instruction) -> None:
    path.keywords = run.scope.code.co_consts[at.arg]


@step("CALL")
def _call(run: Run, path: Path, at: Instruction) -> bool | None:
    arguments = pop(path, at.arg)
    first, second = pop(path, 2)
    # 3.13 has [callable, self or NULL], before [method, self] or [NULL, callable].
    if SINCE_13 or first is not NULL:
        callee, owner = first, second
    else:
        callee, owner = second, NULL
    if owner is not NULL:
        arguments = [owner, *arguments]
    return _perform(run, path, at, callee, arguments)


@step("CALL_KW")  # 3.13
def _call_kw(run: Run, path: Path, at: Instruction) -> bool | None:
    names = path.stack.pop()
    path.keywords = names.value if isinstance(names, Known) else ()
    return _call(run, path, at)


@step("CALL_FUNCTION_EX")
def _call_function_ex(run: Run, path: Path, at: Instruction) -> bool | None:
    keywords = pop(path, 1) if at.arg & 1 else None
    first, second, packed = pop(path, 3)
    callee = run.resolve(first if SINCE_13 else second)
    arguments = known.unpacked(run.resolve(packed))
    if keywords is None and arguments is not None:
        return _perform(run, path, at, callee, list(arguments))
    return _perform(run, path, at, known.only_class(callee), [UNKNOWN])
