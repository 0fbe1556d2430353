"""What the C callables of a program do with an exception of code they call back.

Most hand on everything. Some are asked to swallow (``hasattr``, ``next`` with a
default), some probe (``list`` asks for a length hint), and of C extensions nothing is
known: there a special method may be a probe, a plain function is a callback.
"""

from __future__ import annotations

import functools
import sys
from types import (
    BuiltinFunctionType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final, TypeVar

from gpurescue.recovery.handlers import values
from gpurescue.recovery.handlers.abstract import Made, Value
from gpurescue.recovery.handlers.calls import is_from_c
from gpurescue.recovery.handlers.crossing import Crossing, is_special, is_version_of
from gpurescue.recovery.handlers.objects import (
    inherits,
    is_any,
    is_c_type,
    is_class,
    lookup,
    mro,
    own_names,
)
from gpurescue.recovery.handlers.paths import Undecided
from gpurescue.recovery.handlers.tables import OP

T = TypeVar("T")

_SINCE_12: Final = sys.version_info >= (3, 12)
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

_MODULE_OF = type.__dict__["__module__"].__get__
_NAME_OF = type.__dict__["__name__"].__get__

# Special methods that C calls to act, not to find out something.
DIRECT: Final = frozenset({
    "__call__", "__init__", "__new__", "__enter__", "__exit__", "__aenter__",
    "__aexit__", "__init_subclass__", "__prepare__", "__mro_entries__",
    "__torch_function__", "__torch_dispatch__", "__reduce__", "__reduce_ex__",
    "__getstate__", "__setstate__", "__build_class__",
})  # fmt: skip

# Modules whose C code is known to hand on what is not listed below.
_PLAIN_MODULES: Final = frozenset({
    "builtins", "_operator", "operator", "itertools", "functools", "_functools",
    "_collections", "collections", "math", "_io", "io", "_json", "_heapq", "_bisect",
    "_contextvars", "_abc", "_thread", "_random", "types", "_imp", "_queue",
    "_weakref", "weakref", "_asyncio", "_pickle", "_sre", "re",
})  # fmt: skip
_SWALLOWING_MODULES: Final = frozenset(
    {"sqlite3", "_sqlite3", "ctypes", "_ctypes", "gc"}
)

_SOMEWHERE: Final = "?"  # Cython's functions have no module of their own

_CONSUMING_TYPES: Final = (list, tuple, set, frozenset, dict, bytes, bytearray)
_CONSUMING: Final = frozenset({
    "sum", "min", "max", "any", "all", "sorted", "list", "tuple", "set", "frozenset",
    "dict", "extend", "join", "update", "union", "intersection", "difference",
    "symmetric_difference", "fromkeys", "reduce", "deque", "extendleft", "fsum", "prod",
    "isdisjoint", "issubset", "issuperset", "writelines", "bytes", "bytearray",
})  # fmt: skip
_RUNS_CODE: Final = frozenset({"exec", "eval", "__build_class__", "__import__"})
_LOOKS_UP: Final = frozenset({
    "isinstance", "issubclass", "dir", "vars", "callable", "bytes", "bytearray",
})  # fmt: skip
_DROPS: Final[dict[str, tuple[type, ...]]] = {
    "translate": (LookupError,),
    "input": (BaseException,),
    "TextIOWrapper": (AttributeError, OSError),
}
_TAKES_ITEM: Final = frozenset({"getitem", "__getitem__", "format", "format_map"})
_GENERATOR_METHODS: Final = frozenset({"send", "throw", "close", "__next__"})


def is_plain_type(cls: type) -> bool:
    """Whether the C code of a type is the standard library's, or it has none."""
    return all(
        _text(_MODULE_OF(base)) in _PLAIN_MODULES
        for base in mro(cls)
        if is_c_type(base)
    )


def judge(crossing: Crossing) -> list[Value]:
    """A call instruction that called C, which called ``inner``."""
    if not values.available():
        return _judge_blindly(crossing)
    pointer = crossing.callable_pointer
    if crossing.arguments and id(crossing.first) == pointer:
        return crossing.passes()  # __call__, __new__, a metaclass's __call__
    function = _unwrapped(crossing.operand(pointer))
    if crossing.inner.f_code.co_flags & _CO_COROUTINE:
        return _coroutine(crossing, function)
    if type(function) is FunctionType or type(function) is MethodType:
        return _python(crossing, function)
    if is_class(function):
        return _class(crossing, function)
    return _function(crossing, function)


def is_called_directly(crossing: Crossing) -> bool:
    """Whether a call instruction calls the very function that runs in ``inner``."""
    if crossing.step.op not in CALLS or crossing.name == "__del__":
        return False
    if not values.available():
        return False
    function = values.function_address(crossing.inner)
    return crossing.callable_pointer == function


def _judge_blindly(crossing: Crossing) -> list[Value]:
    """Without the callable: plain functions pass, as most are called directly."""
    if crossing.name in DIRECT or not crossing.is_hook:
        if not crossing.is_kind(StopIteration):
            return crossing.passes()
    raise Undecided("a special method may have been called by C code")


def _unwrapped(function: Any) -> Any:
    """What a ``functools.partial`` calls."""
    while type(function) is functools.partial:
        function = functools.partial.__dict__["func"].__get__(function)
    return function


def _python(crossing: Crossing, function: Any) -> list[Value]:
    while type(function) is MethodType:
        function = function.__func__
    if is_version_of(function, crossing.inner.f_code):
        return crossing.passes()
    raise Undecided("code ran beside the function that is called")


def _coroutine(crossing: Crossing, function: Any) -> list[Value]:
    """A task keeps what its coroutine raises; who awaits the task gets it."""
    owner = getattr(function, "__objclass__", None) if is_from_c(function) else None
    if owner is None and type(function) is BuiltinFunctionType:
        owner = type(function.__self__)
    if is_any(owner, (CoroutineType, GeneratorType)):
        return crossing.passes()
    if crossing.is_kind(KeyboardInterrupt) or crossing.is_kind(SystemExit):
        return crossing.passes()
    return []


def _class(crossing: Crossing, cls: type) -> list[Value]:
    """Making an instance, or a class."""
    if crossing.name == "__set_name__" and not _SINCE_12:
        return [Made(RuntimeError)]  # "Error calling __set_name__ on ..."
    if inherits(cls, type):
        return crossing.passes()
    if crossing.name == "__init__" and crossing.arguments:
        if inherits(type(crossing.first), cls):
            return crossing.passes()
    if any(inherits(cls, consuming) for consuming in _CONSUMING_TYPES):
        return _plain(crossing, _text(_NAME_OF(cls)))
    origin = next(base for base in mro(cls) if is_c_type(base))
    if origin is object:
        return crossing.passes()
    return _known_or_not(crossing, _text(_NAME_OF(origin)), _text(_MODULE_OF(origin)))


def _function(crossing: Crossing, function: Any) -> list[Value]:
    name, module = _origin(function)
    if name in ("hasattr", "getattr") and module == "builtins":
        return _getattr(crossing, name)
    if name == "next" and module == "builtins":
        return _next(crossing)
    return _known_or_not(crossing, name, module)


def _origin(function: Any) -> tuple[str, str]:
    """Name and module of a C callable."""
    kind = type(function)
    if kind is BuiltinFunctionType:
        owner = function.__self__
        if owner is None or inherits(type(owner), ModuleType):
            return function.__name__, _text(function.__module__)
        cls = owner if is_class(owner) else type(owner)
        return function.__name__, _module_of_method(cls, function.__name__)
    if is_from_c(function):
        return function.__name__, _text(_MODULE_OF(function.__objclass__))
    _, call = lookup(kind, "__call__")
    if type(call) is WrapperDescriptorType:
        return _text(_NAME_OF(kind)), _text(_MODULE_OF(call.__objclass__))
    return _SOMEWHERE, _SOMEWHERE


def _text(value: Any) -> str:
    return value if type(value) is str and value else _SOMEWHERE


def _module_of_method(cls: type, name: str) -> str:
    for base in mro(cls):
        if name in own_names(base):
            return _text(_MODULE_OF(base))
    return _SOMEWHERE


def _known_or_not(crossing: Crossing, name: str, module: str) -> list[Value]:
    if module in _PLAIN_MODULES and not _gets_unknown(crossing):
        return _plain(crossing, name)
    if module.partition(".")[0] in _SWALLOWING_MODULES:
        raise Undecided("a callback whose exceptions are dropped")
    if crossing.is_getter or crossing.is_kind(StopIteration):
        raise Undecided("unknown C code may swallow this")
    if is_special(crossing.name) and crossing.name not in DIRECT:
        raise Undecided("unknown C code may be probing")
    return crossing.passes()


def _gets_unknown(crossing: Crossing) -> bool:
    """Whether an argument's own C code may be what called a special method.

    ``operator.eq(array, x)`` has numpy look for ``x.__getitem__``.
    """
    if not crossing.is_hook:
        return False
    return not all(is_plain_type(type(given)) for given in crossing.given)


def _plain(crossing: Crossing, name: str) -> list[Value]:
    """A callable of the standard library that is written in C."""
    if name in _RUNS_CODE:
        return _runs_code(crossing)
    if name in _LOOKS_UP and crossing.is_hook:
        if crossing.is_any_of(AttributeError, TypeError):
            raise Undecided("an attribute that is missing is no error here")
    if name in _DROPS and crossing.is_any_of(*_DROPS[name]):
        raise Undecided("this is dropped, or makes for another way")
    if name == "open" and crossing.name == "__index__":
        raise Undecided("what is neither a path nor a number gets another error")
    if name == "__getattribute__":
        return crossing.passes()
    return _consuming(crossing, name)


def _runs_code(crossing: Crossing) -> list[Value]:
    if crossing.name == "__set_name__" and not _SINCE_12:
        return [Made(RuntimeError)]
    if crossing.is_getter and asks_module(crossing):
        raise Undecided("an attribute that is missing is no error here")
    return crossing.passes()


def asks_module(crossing: Crossing) -> bool:
    """Whether an AttributeError may answer C code that only asks.

    It does not where it comes from the import system, or from code that is run.
    """
    code = crossing.inner.f_code
    is_function = bool(code.co_flags & _CO_NEWLOCALS)
    is_import = code.co_filename.startswith("<frozen importlib")
    return crossing.is_kind(AttributeError) and is_function and not is_import


def _consuming(crossing: Crossing, name: str) -> list[Value]:
    """What iterates: the end of the iteration, and the hint for its length."""
    consumes = name in _CONSUMING
    if crossing.is_kind(StopIteration) and name not in _GENERATOR_METHODS:
        return _ended(crossing.name == "__next__" and consumes)
    if crossing.is_kind(IndexError) and crossing.name == "__getitem__":
        if name not in _TAKES_ITEM:
            return _ended(consumes)
    if crossing.is_kind(TypeError) and crossing.name in ("__len__", "__length_hint__"):
        if name not in ("len", "bool"):
            return _ended(consumes)
    if crossing.is_kind(TypeError) and crossing.name == "__iter__" and name != "iter":
        raise Undecided("what is not iterable gets another error")
    if crossing.is_getter and name not in ("format", "setattr", "delattr"):
        raise Undecided("an attribute that is missing is no error here")
    return crossing.passes()


def _ended(certain: bool) -> list[Value]:
    if certain:
        return []
    raise Undecided("this may be the end of an iteration")


def _getattr(crossing: Crossing, name: str) -> list[Value]:
    if not crossing.is_kind(AttributeError):
        return crossing.passes()
    if name == "hasattr" or crossing.step.op == _CALL_EX or crossing.step.arg != 2:
        return []
    pointer = crossing.operand_pointers(2)[0]
    return attribute_error(crossing, crossing.operand(pointer))


def _next(crossing: Crossing) -> list[Value]:
    if not crossing.is_kind(StopIteration):
        return crossing.passes()
    return crossing.passes() if crossing.step.arg == 1 else []


def attribute_error(crossing: Crossing, owner: Any) -> list[Value]:
    """An AttributeError out of the lookup of an attribute of ``owner``."""
    has_fallback, fallback = lookup(type(owner), "__getattr__")
    if has_fallback:
        is_itself = is_version_of(fallback, crossing.inner.f_code)
        return crossing.passes() if is_itself or crossing.name == "__getattr__" else []
    _, lookup_method = lookup(type(owner), "__getattribute__")
    if is_any(type(lookup_method), (FunctionType, WrapperDescriptorType)):
        return crossing.passes()
    raise Undecided("an attribute lookup of unknown C code")


def ends_sequence(crossing: Crossing, pointer: int) -> bool:
    """Whether an IndexError ends an iteration over ``__getitem__``."""
    if crossing.name == "__getitem__":
        return True
    if crossing.name in ("__next__", "__iter__", "__contains__"):
        return False
    cls = type(crossing.operand(pointer))
    if is_any(cls, (_SEQUENCE_ITERATOR, reversed)):
        return True
    return not lookup(cls, "__iter__")[0]


class _Sequence:
    def __getitem__(self, index: int) -> int:
        raise IndexError(index)


_SEQUENCE_ITERATOR: Final = type(iter(_Sequence()))
