"""Raising and handling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpurescue.recovery.handlers import groups, managers
from gpurescue.recovery.handlers.abstract import (
    NONE,
    UNKNOWN,
    Known,
    Made,
    Previous,
    Slot,
    Value,
)
from gpurescue.recovery.handlers.objects import (
    boolean,
    is_exception,
    is_exception_class,
    matches,
)
from gpurescue.recovery.handlers.paths import Outcome, Path, Undecided
from gpurescue.recovery.handlers.steps.registry import finish_call, pop, step
from gpurescue.recovery.handlers.tables import OP, Instruction

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Run


_OVER = Made(StopAsyncIteration)


def _as_raised(value: Value) -> Value:
    """What ``raise value`` raises."""
    if isinstance(value, Known):
        if is_exception_class(value.value):
            return Made(value.value)
        if not is_exception(value):
            return Made(TypeError)
    return value if is_exception(value) else UNKNOWN


@step("RAISE_VARARGS")
def _raise(run: Run, path: Path, at: Instruction) -> bool:
    taken = [run.resolve(value) for value in pop(path, at.arg)]
    thrown = _as_raised(taken[0]) if taken else path.current
    return run.throw(path, thrown, at.start)


@step("RERAISE")
def _reraise(run: Run, path: Path, at: Instruction) -> bool:
    value = path.stack.pop()
    if path.handled and isinstance(value, Slot):
        # Another exception, which has been on its way in this frame: a `finally`.
        return run.finish(Outcome(None, dirty=path.dirty))
    thrown = run.resolve(value)
    if not is_exception(thrown):
        thrown = UNKNOWN
    return run.throw(path, thrown, at.start)


@step("RETURN_VALUE")
def _return(run: Run, path: Path, at: Instruction) -> bool:
    value = path.stack.pop()  # nobody looks at what a live frame returns
    value = run.resolve(value) if run.handler is None else UNKNOWN
    return run.finish(Outcome(None, value, path.dirty, path.stored))


@step("RETURN_CONST")  # 3.12
def _return_const(run: Run, path: Path, at: Instruction) -> bool:
    value = Known(run.scope.code.co_consts[at.arg])
    return run.finish(Outcome(None, value, path.dirty, path.stored))


@step("PUSH_EXC_INFO")
def _push_exc_info(run: Run, path: Path, at: Instruction) -> None:
    thrown = path.stack.pop()
    path.stack += (Previous(path.current), thrown)
    path.current = thrown


@step("POP_EXCEPT")
def _pop_except(run: Run, path: Path, at: Instruction) -> bool | None:
    """The exception is handled, unless it is kept and raised after all."""
    held = path.stack.pop()
    path.current = held.value if isinstance(held, Previous) else UNKNOWN
    if run.handler is None or path.is_handling():
        return None
    if not path.keeps_exception():
        return run.finish(Outcome(None, dirty=path.dirty))
    path.handled = True
    return None


@step("CHECK_EXC_MATCH")
def _check_match(run: Run, path: Path, at: Instruction) -> bool | None:
    test = run.resolve(path.stack.pop())
    try:
        path.stack.append(boolean(matches(path.stack[-1], test)))
    except LookupError:  # "catching classes that do not inherit from BaseException"
        return run.throw(path, Made(TypeError), at.start)
    return None


@step("CHECK_EG_MATCH")
def _check_group(run: Run, path: Path, at: Instruction) -> bool | None:
    thrown, test = (run.resolve(value) for value in pop(path, 2))
    try:
        rest, match = groups.split(thrown, test)
    except LookupError:  # "catching ExceptionGroup with except* is not allowed"
        return run.throw(path, Made(TypeError), at.start)
    path.stack += (rest, match)
    if match != NONE:
        path.current = match
    return None


@step("PREP_RERAISE_STAR", "CALL_INTRINSIC_2")
def _prepare_reraise(run: Run, path: Path, at: Instruction) -> None:
    thrown, raised = pop(path, 2)
    is_star = at.op == OP.get("PREP_RERAISE_STAR") or at.arg == 1
    path.stack.append(groups.rest(thrown, raised) if is_star else UNKNOWN)


@step("BEFORE_WITH", "BEFORE_ASYNC_WITH")
def _before_with(run: Run, path: Path, at: Instruction) -> None:
    manager = run.resolve(path.stack.pop())
    name = "__exit__" if at.op == OP["BEFORE_WITH"] else "__aexit__"
    path.stack += (managers.exit_of(manager, name), UNKNOWN)
    path.dirty = True


@step("WITH_EXCEPT_START")
def _with_except_start(run: Run, path: Path, at: Instruction) -> bool:
    held, thrown, reads = path.stack[-4], run.resolve(path.stack[-1]), run.reads
    leave = run.resolve(held)
    outcomes = run.machine.leave(leave, thrown, path)
    if reads is not None and isinstance(held, Slot) and isinstance(leave, Known):
        run.reads = reads if thrown is run.thrown else None
        index, method = held.index, leave.value
        run.note_read(managers.exit_read(run.machine, index, method, thrown))
    return finish_call(run, path, at, outcomes)


@step("GET_ANEXT")
def _get_anext(run: Run, path: Path, at: Instruction) -> None:
    """Both ways: an ``async for`` that is over is told so by an exception."""
    other = path.fork()
    if not run.throw(other, _OVER, at.start) and not run.is_known(other):
        run.waiting.append(other)
    path.stack.append(UNKNOWN)


@step("END_ASYNC_FOR")
def _end_async_for(run: Run, path: Path, at: Instruction) -> bool | None:
    thrown = run.resolve(path.stack.pop())
    if thrown is _OVER:
        path.stack.pop()
        return None
    if matches(thrown, Known(StopAsyncIteration)) is not False:
        if run.handler is None:
            raise Undecided("the end of an async for")
        return run.finish(Outcome(None, dirty=path.dirty))
    return run.throw(path, thrown, at.start)


@step("CLEANUP_THROW")  # 3.12
def _cleanup_throw(run: Run, path: Path, at: Instruction) -> bool:
    thrown = run.resolve(path.stack[-1])
    if matches(thrown, Known(StopIteration)) is not False:
        raise Undecided("a value returned to yield from")
    path.stack.pop()
    return run.throw(path, thrown, at.start)
