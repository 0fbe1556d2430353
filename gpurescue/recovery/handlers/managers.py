"""What a context manager's exit does with an exception.

C-level exits never suppress. The standard library's generator-based managers and exit
stacks are looked into: their generator frame, their list of callbacks. Any other exit
is a Python function, and is executed abstractly.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import TYPE_CHECKING, Any, Final

from gpurescue.recovery.handlers import groups, values
from gpurescue.recovery.handlers.abstract import (
    FALSE,
    TRUE,
    UNKNOWN,
    Bound,
    Known,
    Value,
)
from gpurescue.recovery.handlers.calls import bind, is_from_c, names_type
from gpurescue.recovery.handlers.memory import Read, is_same, read_of
from gpurescue.recovery.handlers.objects import (
    attribute,
    boolean,
    class_of,
    instance_dict,
    lookup,
    matches,
    text,
    truth,
)
from gpurescue.recovery.handlers.paths import Effects, Outcome, Undecided
from gpurescue.recovery.handlers.tables import JUMPS, OP, Listing, jump_target, listing

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Machine

_RETURN_CONST: Final = OP.get("RETURN_CONST", -1)
_PYTEST: Final = ("_pytest.raises", "_pytest.python_api")
_PASSES: Final = [Outcome(None, FALSE, dirty=True)]


def exit_of(manager: Value, name: str) -> Value:
    """The exit method that ``with manager`` will call."""
    cls = class_of(manager)
    found = lookup(cls, name)[1] if cls is not None else None
    if type(found) is FunctionType or is_from_c(found):
        return Bound(found, manager)
    return UNKNOWN


def leave(
    machine: Machine, exit_method: Value, thrown: Value, before: Effects
) -> list[Outcome]:
    """Every result of ``exit_method(type(thrown), thrown, traceback)``."""
    function, owner = _parts(exit_method)
    if is_from_c(function):
        return [Outcome(None, FALSE)]
    if type(function) is not FunctionType:
        raise Undecided("an exit that is neither a function nor a method")
    known = _known_manager(machine, function, owner, thrown, before)
    if known is not None:
        return known
    if _never_suppresses(listing(function.__code__)):
        return _PASSES
    arguments = [names_type(thrown), thrown, UNKNOWN]
    if owner is not None:
        arguments.insert(0, owner)
    return machine.call(function, bind(function, arguments), before, own=True)


def _parts(exit_method: Value) -> tuple[Any, Value | None]:
    if isinstance(exit_method, Bound):
        return exit_method.function, exit_method.owner
    if not isinstance(exit_method, Known):
        raise Undecided("an unknown exit")
    value = exit_method.value
    if type(value) is MethodType:
        return value.__func__, Known(value.__self__)
    return value, None


def _known_manager(
    machine: Machine, function: Any, owner: Value | None, thrown: Value, before: Effects
) -> list[Outcome] | None:
    if owner is None:
        return None
    if function in (_GENERATOR_EXIT, _ASYNC_GENERATOR_EXIT):
        return _leave_generator(machine, owner, thrown, before)
    if function in (_STACK_EXIT, _ASYNC_STACK_EXIT):
        return _leave_stack(machine, owner, thrown, before)
    if function is _SUPPRESS_EXIT:
        return _leave_suppress(owner, thrown)
    if function.__module__ in _PYTEST:
        return _leave_pytest(owner, thrown)
    return None


_GENERATOR_EXIT: Final = contextlib._GeneratorContextManager.__exit__
_ASYNC_GENERATOR_EXIT: Final = contextlib._AsyncGeneratorContextManager.__aexit__
_SUPPRESS_EXIT: Final = contextlib.suppress.__exit__
_STACK_EXIT: Final = contextlib.ExitStack.__exit__
_ASYNC_STACK_EXIT: Final = contextlib.AsyncExitStack.__aexit__


def _never_suppresses(code: Listing) -> bool:
    """Whether every return is a false constant, and nothing is raised."""
    known = code.facts.get("never suppresses")
    if known is None:
        known = code.facts["never suppresses"] = _returns_false(code)
    return known


def _returns_false(code: Listing) -> bool:
    constants = code.code.co_consts
    targets: set[int] = set()
    returns: list[int] = []
    offset, before = 0, None
    while offset < len(code.bytes):
        step = code.at(offset)
        if step.op == OP["RAISE_VARARGS"]:
            return False
        if step.op in JUMPS:
            targets.add(jump_target(step))
        if step.op == _RETURN_CONST and truth(Known(constants[step.arg])) is not False:
            return False
        if step.op == OP["RETURN_VALUE"]:
            returns.append(step.start)
            if before is None or before.op != OP["LOAD_CONST"]:
                return False
            if truth(Known(constants[before.arg])) is not False:
                return False
        offset, before = step.after, step
    return not targets.intersection(returns)


def _leave_generator(
    machine: Machine, owner: Value, thrown: Value, before: Effects
) -> list[Outcome]:
    """``@contextmanager``: the exception is raised at the generator's yield."""
    generator = attribute(owner, "gen")
    if not isinstance(generator, Known):
        raise Undecided("a context manager without its generator")
    outcomes = _throw_into(machine, generator.value, thrown, before)
    return [_as_exit(outcome, thrown) for outcome in outcomes]


def _as_exit(outcome: Outcome, thrown: Value) -> Outcome:
    if outcome.raised is None:
        return Outcome(None, TRUE, dirty=True, stored=outcome.stored)
    if outcome.raised == thrown:
        return Outcome(None, FALSE, dirty=True, stored=outcome.stored)
    return outcome


def _throw_into(
    machine: Machine, generator: Any, thrown: Value, before: Effects
) -> list[Outcome]:
    if matches(thrown, Known((StopIteration, StopAsyncIteration))) is not False:
        raise Undecided("a generator turns StopIteration into RuntimeError")
    frame, inner = _suspended(generator)
    if inner is None:
        return machine.throw(frame, frame.f_lasti, thrown, before)
    outcomes: list[Outcome] = []
    for outcome in _throw_into(machine, inner, thrown, before):
        if outcome.raised is None:
            raise Undecided("a delegated generator returns")
        outcomes += machine.throw(frame, frame.f_lasti, outcome.raised, before)
    return outcomes


def _suspended(generator: Any) -> tuple[FrameType, Any]:
    """The frame of a suspended generator, and what it delegates to."""
    frame: FrameType | None
    inner: Any
    if type(generator) is GeneratorType:
        frame, inner = generator.gi_frame, generator.gi_yieldfrom
        running = generator.gi_running
    elif type(generator) is AsyncGeneratorType:
        frame, inner = generator.ag_frame, generator.ag_await
        running = generator.ag_running
    else:
        raise Undecided("not a generator")
    if running or frame is None:
        raise Undecided("the generator does not wait at a yield")
    return frame, inner


def _leave_stack(
    machine: Machine, owner: Value, thrown: Value, before: Effects
) -> list[Outcome]:
    """``ExitStack``: the exits it has collected, last first."""
    callbacks = attribute(owner, "_exit_callbacks")
    if not isinstance(callbacks, Known):
        raise Undecided("an exit stack without its callbacks")
    raised, stored = thrown, before.stored
    for _, callback in reversed(list(callbacks.value)):
        effects = Outcome(None, dirty=True, stored=stored)
        outcomes = leave(machine, Known(callback), raised, effects)
        if len(outcomes) != 1:
            raise Undecided("one of an exit stack's exits may suppress")
        stored = stored or outcomes[0].stored
        if outcomes[0].raised is not None:
            raised = outcomes[0].raised
        elif (suppressed := truth(outcomes[0].value)) is None:
            raise Undecided("one of an exit stack's exits may suppress")
        elif suppressed:
            return [Outcome(None, TRUE, dirty=True, stored=stored)]
    if raised == thrown:
        return [Outcome(None, FALSE, dirty=True, stored=stored)]
    return [Outcome(raised, dirty=True, stored=stored)]


def _leave_suppress(owner: Value, thrown: Value) -> list[Outcome] | None:
    """``contextlib.suppress``; of a group it takes out what it suppresses."""
    expected = attribute(owner, "_exceptions")
    answer = None if groups.is_group(thrown) else matches(thrown, expected)
    return None if answer is None else [Outcome(None, boolean(answer))]


def _leave_pytest(owner: Value, thrown: Value) -> list[Outcome] | None:
    """``pytest.raises``, whose own code asks more than is known here."""
    if not isinstance(owner, Known):
        return None
    names = instance_dict(owner.value) or {}
    expected = names.get("expected_exceptions", names.get("expected_exception"))
    if expected is None:
        return None
    answer = matches(thrown, Known(expected))
    if answer is False:
        return _PASSES
    if answer is None or names.get("check") is not None:
        raise Undecided("pytest.raises looks at more than the type")
    if not _is_found(names.get("match", names.get("match_expr")), thrown):
        raise Undecided("pytest.raises looks at more than the type")
    return [Outcome(None, TRUE, dirty=True)]


def _is_found(pattern: Any, thrown: Value) -> bool:
    """Whether the text of ``thrown`` is known to match."""
    if pattern is None:
        return True
    shown = text(thrown.value) if isinstance(thrown, Known) else None
    if shown is None or type(pattern) is not str:
        return False
    return re.search(pattern, shown) is not None


# --- exits that do the same each time ---


def exit_read(machine: Machine, index: int, method: Any, thrown: Value) -> Read | None:
    """How to tell that the exit in slot ``index`` does again what it has just done."""
    kind = _kind(method)
    if kind is None:
        return None
    if kind[0] is _SUPPRESS_EXIT and not groups.is_group(thrown):
        return read_of(_in_suppress, index, Known(_suppressed(method.__self__)))
    if kind[0] is _GENERATOR_EXIT and machine.holds is not None:
        waiting = _waiting(method.__self__)
        if waiting is None:
            return None
        return _in_generator, index, (waiting.f_code, waiting.f_lasti, machine.holds)
    if type(kind[0]) is FunctionType and not _never_suppresses(listing(kind[1])):
        return None
    return _in_exit, index, (weakref.ref(kind[0]), kind[1])


def _kind(method: Any) -> tuple[Any, Any] | None:
    """What the exit methods of two managers share if they do the same."""
    if type(method) is MethodType and type(method.__func__) is FunctionType:
        return method.__func__, method.__func__.__code__
    if type(method) is BuiltinMethodType:
        return type(method.__self__), method.__name__
    return None


def _in_exit(frame: FrameType, thrown: Value, index: int, expected: Any) -> bool:
    """An exit that never suppresses."""
    kind = _kind(values.slot(frame, index))
    owner = expected[0]()
    return (
        kind is not None
        and owner is not None
        and kind[0] is owner
        and (kind[1] is expected[1] or kind[1] == expected[1])
    )


def _in_suppress(frame: FrameType, thrown: Value, index: int, expected: Any) -> bool:
    """``contextlib.suppress`` of the same classes."""
    method = values.slot(frame, index)
    if type(method) is not MethodType or method.__func__ is not _SUPPRESS_EXIT:
        return False
    return is_same(_suppressed(method.__self__), expected)


def _suppressed(manager: Any) -> Any:
    """The classes; something that is never the same if it is a class of its own."""
    is_plain = type(manager) is contextlib.suppress
    return vars(manager).get("_exceptions") if is_plain else []


def _in_generator(frame: FrameType, thrown: Value, index: int, expected: Any) -> bool:
    """``@contextmanager``: the generator waits at the same place, and does the same."""
    method = values.slot(frame, index)
    if type(method) is not MethodType or method.__func__ is not _GENERATOR_EXIT:
        return False
    waiting = _waiting(method.__self__)
    if waiting is None or waiting.f_code is not expected[0]:
        return False
    return waiting.f_lasti == expected[1] and bool(expected[2](waiting, thrown))


def _waiting(manager: Any) -> FrameType | None:
    """The frame of a manager's generator, if it waits at a plain yield."""
    if type(manager) is not contextlib._GeneratorContextManager:
        return None
    generator: Any = manager.gen
    if type(generator) is not GeneratorType or generator.gi_running:
        return None
    frame: FrameType | None = generator.gi_frame
    return frame if generator.gi_yieldfrom is None else None
