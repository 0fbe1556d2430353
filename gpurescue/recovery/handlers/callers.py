"""C code between two Python frames: what it does with an exception.

C frames cannot be seen. What stands there follows from the instruction that the
caller is in, from the callable or operands on its value stack, and from the function
that C called back. ``cross`` applies one rule per instruction; ``callables`` has those
for calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any, Final

from gpurescue.recovery.handlers import attributes, callables, values
from gpurescue.recovery.handlers.abstract import Known, Made, Value
from gpurescue.recovery.handlers.crossing import SINCE_12, Crossing, is_version_of
from gpurescue.recovery.handlers.objects import inherits, is_any, lookup
from gpurescue.recovery.handlers.origins import is_plain_value
from gpurescue.recovery.handlers.paths import Undecided
from gpurescue.recovery.handlers.tables import OP

Rule = Callable[[Crossing], list[Value]]

_GENERATOR: Final = 0x20
_COROUTINE: Final = 0x80
_ASYNC_GENERATOR: Final = 0x200
GENERATORS: Final = _GENERATOR | _COROUTINE | _ASYNC_GENERATOR

_RULES: dict[int, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            if name in OP:
                _RULES[OP[name]] = rule
        return rule

    return register


def cross(outer: FrameType, inner: FrameType, thrown: Value) -> list[Value]:
    """What arrives in ``outer`` when ``thrown`` leaves ``inner``, which it called.

    An empty list: somebody in between swallows it. Several: any of them may arrive.
    """
    if inner.f_code.co_flags & GENERATORS:
        thrown = _out_of_generator(inner.f_code.co_flags, thrown)
    if values.available() and not values.called_from_c(inner):
        return [thrown]
    crossing = Crossing(outer, inner, thrown)
    if callables.is_called_directly(crossing) and not crossing.is_kind(GeneratorExit):
        return [thrown]
    odd = _odd_call(crossing)
    if odd is not None:
        return odd
    rule = _RULES.get(crossing.step.op)
    if rule is None:
        # No instruction that calls anything: a finaliser, a weak reference's
        # callback, a trace function.
        raise Undecided("code ran where none is called")
    return rule(crossing)


def _out_of_generator(flags: int, thrown: Value) -> Value:
    """StopIteration leaves a generator as RuntimeError (PEP 479)."""
    kind = thrown.value if isinstance(thrown, Known) else None
    cls = thrown.cls if isinstance(thrown, Made) else type(kind)
    if inherits(cls, StopIteration):
        return Made(RuntimeError)
    if flags & _ASYNC_GENERATOR and inherits(cls, StopAsyncIteration):
        return Made(RuntimeError)
    return thrown


# --- calls that no instruction makes ---


def _odd_call(crossing: Crossing) -> list[Value] | None:
    """Finalisers, callbacks of weak references and of gc; signal handlers, tracers."""
    if crossing.is_kind(GeneratorExit):
        raise Undecided("a generator is closed")
    if crossing.name == "__del__" or _is_finaliser(crossing):
        return []
    first = crossing.arguments
    if any(value is crossing.outer for value in first):
        return crossing.passes()  # a signal handler or trace function gets the frame
    if any(_is_dead_reference(value) for value in first) or _is_gc_callback(first):
        return []
    if crossing.inner.f_code.co_flags & GENERATORS and _is_closing(crossing.thrown):
        raise Undecided("a generator may be finalised")
    return None


def _is_finaliser(crossing: Crossing) -> bool:
    if not crossing.arguments:
        return False
    _, method = lookup(type(crossing.first), "__del__")
    return is_version_of(method, crossing.inner.f_code)


def _is_dead_reference(value: Any) -> bool:
    if not inherits(type(value), weakref.ReferenceType):
        return False
    return weakref.ReferenceType.__call__(value) is None


def _is_gc_callback(first: list[Any]) -> bool:
    if len(first) < 2 or type(first[-1]) is not dict or type(first[-2]) is not str:
        return False
    return first[-2] in ("start", "stop") and "generation" in first[-1]


def _is_closing(thrown: Value) -> bool:
    """Whether the exception was raised while GeneratorExit was being handled."""
    seen: Any = thrown.value if isinstance(thrown, Known) else None
    for _ in range(8):
        if seen is None or type(seen) is GeneratorExit:
            break
        seen = BaseException.__dict__["__context__"].__get__(seen)
    return type(seen) is GeneratorExit


# --- operators ---

# What an instruction calls itself on an operand. What else is called comes from the C
# code of another operand, as when numpy's __getitem__ calls an index's __index__.
_ARITHMETIC: Final = frozenset(
    f"__{prefix}{name}__"
    for name in (
        "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift",
        "rshift", "and", "or", "xor", "divmod",
    )
    for prefix in ("", "r", "i")
)  # fmt: skip
_COMPARISONS: Final = frozenset(
    f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge")
)
_ITEMS: Final = frozenset({
    "__getitem__", "__setitem__", "__delitem__", "__class_getitem__", "__missing__",
})  # fmt: skip
_TRUTH: Final = frozenset({"__bool__", "__len__"})
_TEXT: Final = frozenset({"__format__", "__str__", "__repr__"})
_KEYS: Final = frozenset({"__hash__", "__eq__"})
_NUMBERS: Final = frozenset({"__index__", "__int__", "__float__"})


@dataclass(frozen=True, slots=True)
class _Operator:
    """How many operands an instruction has, and what it calls on which of them."""

    count: int
    calls: frozenset[str]
    position: int | None = None


_OPERATORS: Final = {
    OP[name]: operator
    for name, operator in {
        "BINARY_OP": _Operator(2, _ARITHMETIC),
        "COMPARE_OP": _Operator(2, _COMPARISONS),
        "BINARY_SUBSCR": _Operator(2, _ITEMS, 0),
        "STORE_SUBSCR": _Operator(3, _ITEMS, 1),
        "DELETE_SUBSCR": _Operator(2, _ITEMS, 0),
        "BINARY_SLICE": _Operator(3, _ITEMS, 0),
        "STORE_SLICE": _Operator(4, _ITEMS, 1),
        "UNARY_NEGATIVE": _Operator(1, frozenset({"__neg__"})),
        "UNARY_POSITIVE": _Operator(1, frozenset({"__pos__"})),
        "UNARY_INVERT": _Operator(1, frozenset({"__invert__"})),
        "UNARY_NOT": _Operator(1, _TRUTH),
        "TO_BOOL": _Operator(1, _TRUTH),
        "FORMAT_VALUE": _Operator(1, _TEXT),
        "FORMAT_SIMPLE": _Operator(1, _TEXT),
        "FORMAT_WITH_SPEC": _Operator(2, _TEXT),
        "CONVERT_VALUE": _Operator(1, _TEXT),
        "GET_ITER": _Operator(1, frozenset({"__iter__"})),
        "GET_YIELD_FROM_ITER": _Operator(1, frozenset({"__iter__"})),
        "GET_LEN": _Operator(1, frozenset({"__len__"})),
        "SET_ADD": _Operator(1, _KEYS),
        "MAP_ADD": _Operator(2, _KEYS),
    }.items()
    if name in OP
}


def _operator(crossing: Crossing) -> list[Value]:
    """Operators swallow nothing, unless an operand's C code does."""
    operator = _OPERATORS[crossing.step.op]
    pointers = crossing.operand_pointers(operator.count)
    own = pointers if operator.position is None else [pointers[operator.position]]
    if crossing.calls_on(own) and _is_own(crossing, operator):
        return crossing.passes()
    if crossing.name in _NUMBERS and crossing.is_kind(TypeError):
        raise Undecided("an operand that is no number gets another error")
    if all(is_plain_value(crossing.operand(p)) for p in pointers):
        return crossing.passes()
    raise Undecided("an operand's C code probes another operand")


def _is_own(crossing: Crossing, operator: _Operator) -> bool:
    """Whether the interpreter called ``inner`` on an operand, and not its C code."""
    if crossing.name in operator.calls:
        return True
    # A decorated method; torch makes NotImplemented of a TypeError in one of its own.
    if crossing.is_hook or crossing.is_kind(TypeError):
        return False
    cls = type(crossing.first)
    return any(type(lookup(cls, name)[1]) is FunctionType for name in operator.calls)


_RULES.update(dict.fromkeys(_OPERATORS, _operator))


@_rule(
    "POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE", "POP_JUMP_FORWARD_IF_TRUE",
    "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_TRUE",
    "POP_JUMP_BACKWARD_IF_FALSE", "JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP",
)  # fmt: skip
def _truth(crossing: Crossing) -> list[Value]:
    """``if value``: __bool__ or __len__."""
    if crossing.name in ("__bool__", "__len__") or not crossing.is_hook:
        return crossing.passes()
    raise Undecided("a test's C code probes something")


@_rule(
    "BUILD_MAP", "BUILD_SET", "BUILD_CONST_KEY_MAP", "GET_AITER", "GET_ANEXT",
    "GET_AWAITABLE", "BEFORE_WITH", "BEFORE_ASYNC_WITH", "WITH_EXCEPT_START",
    "RAISE_VARARGS", "STORE_NAME", "PRINT_EXPR", "MATCH_KEYS",
    "CALL_INTRINSIC_2",
)  # fmt: skip
def _passes(crossing: Crossing) -> list[Value]:
    """Protocols of C that hand on every exception."""
    return crossing.passes()


@_rule("CALL_INTRINSIC_1", "IMPORT_STAR", "IMPORT_FROM", "DELETE_NAME")
def _replaces(crossing: Crossing) -> list[Value]:
    """A failing ``from module import name`` becomes ImportError, or is looked up."""
    if crossing.is_any_of(AttributeError, KeyError):
        raise Undecided("a failing lookup is replaced")
    return crossing.passes()


@_rule("IMPORT_NAME")
def _import(crossing: Crossing) -> list[Value]:
    """The import system is Python; but C asks a module for its ``__path__``."""
    if callables.asks_module(crossing):
        raise Undecided("an attribute that is missing is no error here")
    return crossing.passes()


@_rule(
    "LOAD_NAME", "LOAD_GLOBAL", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS",
    "LOAD_FROM_DICT_OR_DEREF",
)  # fmt: skip
def _name(crossing: Crossing) -> list[Value]:
    """A KeyError of a class body's own namespace: the name is looked up elsewhere."""
    return [] if crossing.is_kind(KeyError) else crossing.passes()


# --- attributes ---


@_rule("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
def _attribute(crossing: Crossing) -> list[Value]:
    """An AttributeError is swallowed where there is a ``__getattr__`` to fall back."""
    if crossing.step.op == _SUPER_ATTR:
        return crossing.passes()
    names, index = crossing.outer.f_code.co_names, crossing.step.arg
    if SINCE_12 and crossing.step.op == OP["LOAD_ATTR"]:
        index >>= 1
    (pointer,) = crossing.operand_pointers(1)
    return attributes.looked_up(crossing, crossing.operand(pointer), names[index])


_SUPER_ATTR: Final = OP.get("LOAD_SUPER_ATTR", -1)


@_rule("STORE_ATTR", "DELETE_ATTR")
def _store(crossing: Crossing) -> list[Value]:
    """Setters hand on what they raise; dropping the old value may run a finaliser."""
    if crossing.name in ("__setattr__", "__delattr__", "__set__", "__delete__"):
        return crossing.passes()
    names = crossing.outer.f_code.co_names
    (pointer,) = crossing.operand_pointers(1)
    owner = type(crossing.operand(pointer))
    for name in (names[crossing.step.arg], "__setattr__", "__delattr__"):
        found, value = lookup(owner, name)
        if found and is_any(type(value), (property, FunctionType)):
            return crossing.passes()
        if found and type(lookup(type(value), "__set__")[1]) is FunctionType:
            return crossing.passes()
    raise Undecided("code ran where an attribute is only stored")


@_rule("MATCH_CLASS")
def _match_class(crossing: Crossing) -> list[Value]:
    """``case Point(x=0)``: an attribute that is missing does not match."""
    checks = ("__instancecheck__", "__subclasscheck__")
    if crossing.is_kind(AttributeError) and crossing.name not in checks:
        return []
    return crossing.passes()


# --- iteration ---


@_rule(
    "FOR_ITER", "LIST_EXTEND", "UNPACK_SEQUENCE", "UNPACK_EX", "SET_UPDATE", "SEND",
    "CONTAINS_OP",
)  # fmt: skip
def _iteration(crossing: Crossing) -> list[Value]:
    """StopIteration ends it; so does IndexError over ``__getitem__``."""
    if crossing.is_kind(StopIteration):
        return []
    (pointer,) = crossing.operand_pointers(1)
    if crossing.is_kind(IndexError) and callables.ends_sequence(crossing, pointer):
        return []
    if crossing.is_kind(TypeError) and crossing.name in ("__len__", "__length_hint__"):
        return []
    if crossing.is_kind(TypeError) and crossing.step.op == OP["CONTAINS_OP"]:
        if crossing.name == "__iter__":
            raise Undecided("what is not iterable gets another error")
    if crossing.name in _ITERATION | callables.DIRECT or not crossing.is_hook:
        return crossing.passes()
    if is_plain_value(crossing.operand(pointer)):
        return crossing.passes()
    raise Undecided("an iterator's C code probes something")


_ITERATION: Final = frozenset({
    "__iter__", "__next__", "__contains__", "__getitem__", "__eq__", "__hash__",
    "__await__", "__anext__",
})  # fmt: skip


@_rule("DICT_MERGE", "DICT_UPDATE")
def _mapping(crossing: Crossing) -> list[Value]:
    """``{**value}`` and ``f(**value)`` turn some errors into TypeError."""
    if crossing.is_any_of(AttributeError, LookupError, StopIteration):
        raise Undecided("a failing mapping may be replaced")
    return crossing.passes()


# --- calls ---


@_rule("CALL", "CALL_KW", "CALL_FUNCTION_EX")
def _call(crossing: Crossing) -> list[Value]:
    return callables.judge(crossing)


@_rule("RESUME", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT")
def _poll(crossing: Crossing) -> list[Value]:
    """Here the loop polls for signals; their handlers were recognised before."""
    raise Undecided("a pending call")
