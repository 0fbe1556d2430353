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
)
from typing import Any, Final

from gpurescue.recovery.handlers import attributes, values
from gpurescue.recovery.handlers.abstract import Made, Value
from gpurescue.recovery.handlers.calls import is_from_c
from gpurescue.recovery.handlers.crossing import (
    CALLS,
    Crossing,
    is_special,
    is_version_of,
)
from gpurescue.recovery.handlers.objects import inherits, is_any, is_class, lookup
from gpurescue.recovery.handlers.origins import (
    PLAIN_MODULES,
    is_plain_type,
    is_plain_value,
    name_of_class,
    origin_of,
    origin_of_class,
)
from gpurescue.recovery.handlers.paths import Undecided

_SINCE_12: Final = sys.version_info >= (3, 12)
_CO_COROUTINE: Final = 0x80 | 0x100
_CO_NEWLOCALS: Final = 0x02

# Special methods that C calls to act, not to find out something.
DIRECT: Final = frozenset({
    "__call__", "__init__", "__new__", "__enter__", "__exit__", "__aenter__",
    "__aexit__", "__init_subclass__", "__prepare__", "__mro_entries__",
    "__torch_function__", "__torch_dispatch__", "__reduce__", "__reduce_ex__",
    "__getstate__", "__setstate__", "__build_class__",
})  # fmt: skip

_SWALLOWING_MODULES: Final = frozenset(
    {"sqlite3", "_sqlite3", "ctypes", "_ctypes", "gc"}
)

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
_GOES_DEEP: Final = frozenset({"dump", "dumps", "load", "loads"})
# How many of the arguments are looked into; of others it is all.
_SUBJECTS: Final = {"setattr": 1, "delattr": 1, "getattr": 1, "hasattr": 1}
_TAKES_ITEM: Final = frozenset({"getitem", "__getitem__", "format", "format_map"})
_GENERATOR_METHODS: Final = frozenset({"send", "throw", "close", "__next__"})


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
        return _known_or_not(crossing, name_of_class(cls), "builtins")
    name, module = origin_of_class(cls)
    if (name, module) == ("object", "builtins"):
        return crossing.passes()
    return _known_or_not(crossing, name, module)


def _function(crossing: Crossing, function: Any) -> list[Value]:
    name, module = origin_of(function)
    if name in ("hasattr", "getattr") and module == "builtins":
        return _getattr(crossing, name)
    if name == "next" and module == "builtins":
        return _next(crossing)
    return _known_or_not(crossing, name, module)


def _known_or_not(crossing: Crossing, name: str, module: str) -> list[Value]:
    if module in PLAIN_MODULES:
        if not _may_probe(crossing, name, module):
            return _plain(crossing, name)
        if not crossing.is_hook:
            raise Undecided("an operand's C code probes another operand")
    if module.partition(".")[0] in _SWALLOWING_MODULES:
        raise Undecided("a callback whose exceptions are dropped")
    if crossing.is_getter or crossing.is_kind(StopIteration):
        raise Undecided("unknown C code may swallow this")
    if is_special(crossing.name) and crossing.name not in DIRECT:
        raise Undecided("unknown C code may be probing")
    return crossing.passes()


def _may_probe(crossing: Crossing, name: str, module: str) -> bool:
    """Whether an argument's own C code may be what called a special method.

    ``operator.eq(array, x)`` has numpy look for ``x.__getitem__``; and pickling gets
    to whatever can be reached.
    """
    if not crossing.is_hook and module != "_operator":  # those take no callback
        return False
    if name in _GOES_DEEP:
        return True
    subjects = crossing.given[: _SUBJECTS.get(name)]
    if crossing.arguments:
        if any(crossing.first is value for value in subjects):
            if not is_plain_type(type(crossing.first)):
                return True
            subjects = [value for value in subjects if value is not crossing.first]
    return not all(map(is_plain_value, subjects))


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
    given = crossing.given
    if len(given) not in (2, 3):
        raise Undecided("the arguments of getattr are not known")
    if name == "hasattr" or len(given) == 3:
        if crossing.is_kind(AttributeError):
            return []
    return attributes.looked_up(crossing, given[0], given[1])


def _next(crossing: Crossing) -> list[Value]:
    if crossing.is_kind(IndexError) and crossing.name == "__getitem__":
        return [Made(StopIteration)] if len(crossing.given) == 1 else []
    if not crossing.is_kind(StopIteration):
        return crossing.passes()
    return crossing.passes() if len(crossing.given) == 1 else []


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
