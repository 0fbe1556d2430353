"""Calls in a handler: the few whose result is known, and functions to follow."""

from __future__ import annotations

from dataclasses import dataclass
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any, Final

from gpurescue.recovery.handlers import known
from gpurescue.recovery.handlers.abstract import (
    NONE,
    UNKNOWN,
    Bound,
    Known,
    Made,
    Super,
    Value,
)
from gpurescue.recovery.handlers.memory import code_read, text_read
from gpurescue.recovery.handlers.objects import (
    SCALARS,
    class_of,
    is_any,
    is_class,
    is_exception,
    is_exception_class,
)
from gpurescue.recovery.handlers.paths import Outcome, Path, Undecided
from gpurescue.recovery.handlers.shapes import may_return
from gpurescue.recovery.handlers.tables import listing

if TYPE_CHECKING:
    from gpurescue.recovery.handlers.execute import Run

_GENERATORS: Final = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR
_VARARGS: Final = 0x04
_VARKEYWORDS: Final = 0x08
OPAQUE: Final = [Outcome(None, UNKNOWN, dirty=True)]
_REPORTING: Final = ("logging", "traceback")  # given an exception, they return
# What may have a known result; any other callable is opaque.
_KINDS: Final = (FunctionType, BuiltinFunctionType, MethodDescriptorType, type)


@dataclass(slots=True)
class Request:
    """One call: the values of ``keywords`` stand at the end of ``arguments``.

    ``matters``: what comes next is a test of the result, or the raising of it.
    """

    callee: Value
    arguments: list[Value]
    keywords: tuple[str, ...] = ()
    matters: bool = True


def perform(run: Run, path: Path, request: Request) -> list[Outcome]:
    """Every way a call may end; an unknown one returns something unknown.

    The arguments are read only where they count: what is read is compared the next
    time (``memory``).
    """
    request = _unbound(request)
    if not isinstance(request.callee, Known):
        return OPAQUE
    function = request.callee.value
    if id(function) in known.ENDING:
        return [Outcome(Made(SystemExit))]
    if is_exception_class(function) and not known.looks_at_arguments(function):
        return [Outcome(None, known.new_exception(function, request.arguments))]
    if id(function) in known.BLIND:
        return [Outcome(None, NONE)]
    if type(function) is MethodDescriptorType and not known.knows(function):
        return OPAQUE
    if not is_any(type(function), _KINDS) and function is not super:
        return OPAQUE
    request.arguments[:] = [run.resolve(value) for value in request.arguments]
    if type(function) is FunctionType and id(function) not in known.PURE:
        run.note_read(code_read(function))
        return _follow(run, path, function, request)
    return _known(run, path, function, request)


def _known(run: Run, path: Path, function: Any, request: Request) -> list[Outcome]:
    """A call of which the result may be known."""
    if function is str and request.arguments == [run.thrown]:
        run.note_read(text_read(run.thrown))
    elif function is not isinstance and not _is_fixed(request.arguments):
        run.reads = None
    if function is super:
        return [Outcome(None, _super(run, path, request.arguments))]
    if request.keywords:
        return OPAQUE
    result = known.result(path, function, request.arguments)
    return OPAQUE if result is None else [Outcome(None, result)]


def _is_fixed(arguments: list[Value]) -> bool:
    """Whether equal arguments are all that the result can depend on."""
    return bool(arguments) and all(
        isinstance(value, Known) and is_any(type(value.value), SCALARS)
        for value in arguments
    )


def _unbound(request: Request) -> Request:
    """Put the ``self`` of a method in front of its arguments."""
    callee = request.callee
    if isinstance(callee, Known) and type(callee.value) is MethodType:
        callee = Bound(callee.value.__func__, Known(callee.value.__self__))
    if not isinstance(callee, Bound):
        return request
    arguments = [callee.owner, *request.arguments]
    return Request(Known(callee.function), arguments, request.keywords, request.matters)


# --- functions in Python ---


def _super(run: Run, path: Path, arguments: list[Value]) -> Value:
    """``super()`` or ``super(cls, owner)``."""
    if not arguments:
        arguments = _implicit(run, path)
    if len(arguments) != 2 or not isinstance(arguments[0], Known):
        return UNKNOWN
    cls = arguments[0].value
    return Super(cls, arguments[1]) if is_class(cls) else UNKNOWN


def _implicit(run: Run, path: Path) -> list[Value]:
    code = run.scope.code
    if "__class__" not in code.co_freevars or not code.co_argcount:
        return []
    free = code.co_freevars.index("__class__") - len(code.co_freevars)
    cls = run.scope.cell(run.scope.listing.slots + free)
    if code.co_varnames[0] in code.co_cellvars:
        return [cls, path.variables.get(("cell", 0)) or run.scope.cell(0)]
    return [cls, path.variables.get(0) or run.scope.fast(0)]


def _follow(
    run: Run, path: Path, function: FunctionType, request: Request
) -> list[Outcome]:
    """Execute a Python function, if what it does can matter.

    It does when it is given an exception, when its result is looked at, or when it
    has no way to return.
    """
    is_given = function.__module__ not in _REPORTING and any(
        is_exception(value) for value in request.arguments
    )
    code = function.__code__
    if code.co_flags & _GENERATORS:
        return OPAQUE
    if not (is_given or request.matters) and may_return(listing(code)):
        return OPAQUE
    run.reads = None
    try:
        if _is_exit(function, request):
            leave = Bound(function, request.arguments[0])
            return run.machine.leave(leave, request.arguments[2], path)
        variables = bind(function, request.arguments, request.keywords)
        outcomes = run.machine.call(function, variables, path)
    except Undecided:
        return OPAQUE
    returned = [outcome for outcome in outcomes if outcome.raised is None]
    # A function that is not given the exception raises, where it can also return,
    # for reasons of its own: calls are assumed to succeed.
    return outcomes if is_given or not returned else returned


def _is_exit(function: FunctionType, request: Request) -> bool:
    """Whether one context manager calls another one's exit."""
    return (
        function.__name__ in ("__exit__", "__aexit__")
        and len(request.arguments) == 4
        and not request.keywords
        and is_exception(request.arguments[2])
    )


def bind(
    function: FunctionType, arguments: list[Value], keywords: tuple[str, ...] = ()
) -> dict[object, Value]:
    """The local variables at the start of a call."""
    code = function.__code__
    count = code.co_argcount
    bound: dict[object, Value] = dict(_defaults(function))
    positional = arguments[: len(arguments) - len(keywords)]
    bound.update(enumerate(positional[:count]))
    if code.co_flags & _VARARGS:
        bound[count + code.co_kwonlyargcount] = known.packed(tuple(positional[count:]))
    elif len(positional) > count:
        raise Undecided("too many arguments")
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    for name, value in zip(keywords, arguments[len(positional) :], strict=True):
        if name in names:
            bound[names.index(name)] = value
        elif not code.co_flags & _VARKEYWORDS:
            raise Undecided("an unexpected keyword argument")
    return bound


def _defaults(function: FunctionType) -> list[tuple[int, Value]]:
    code = function.__code__
    defaults = function.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    bound = [(first + index, Known(value)) for index, value in enumerate(defaults)]
    named = function.__kwdefaults__ or {}
    for index in range(code.co_argcount, code.co_argcount + code.co_kwonlyargcount):
        name = code.co_varnames[index]
        if name in named:
            bound.append((index, Known(named[name])))
    return list(bound)


def is_from_c(function: Any) -> bool:
    """Whether a method is implemented in C."""
    kind = type(function)
    return is_any(
        kind, (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)
    ) or is_any(kind, (type(object().__str__), type(dict.__dict__["fromkeys"])))


def names_type(value: Value) -> Value:
    """``type(value)`` as an abstract value."""
    cls = class_of(value)
    return UNKNOWN if cls is None else Known(cls)
