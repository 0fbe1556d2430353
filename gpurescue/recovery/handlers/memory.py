"""Answers that are good for the next exception of the same class, too.

Most handlers look at nothing but the class of the exception: ``except KeyError: pass``.
What becomes of an exception there depends on its class, on where it is raised, and on
what was looked at besides: global names, variables, the text of the exception. Those
are compared when the answer is used again (``reads``). A handler that looks at anything
else is executed each time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import (
    CellType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
)
from typing import Any, Final, NamedTuple

from gpurescue.recovery.handlers import values
from gpurescue.recovery.handlers.abstract import (
    CELL,
    LOCAL,
    UNKNOWN,
    Bound,
    Known,
    Place,
    Value,
)
from gpurescue.recovery.handlers.known import knows
from gpurescue.recovery.handlers.objects import (
    attribute,
    class_of,
    is_exception,
    is_stable,
    module_dict,
    mro,
    text,
)
from gpurescue.recovery.handlers.paths import Outcome, contents
from gpurescue.recovery.handlers.tables import Listing, ops

# How to look at something, its name or number, and what was found there.
Check = Callable[[FrameType, Value, Any, Any], bool]
Read = tuple[Check, Any, Any]
Holds = Callable[[FrameType, Value], bool]

_MOST_QUESTIONS: Final = 256  # for one code object
_MOST_ANSWERS: Final = 4  # for one question
_LONGEST: Final = 64
_LONGEST_TEXT: Final = 2000
_MISSING: Final = object()
_THROWN: Final = Value("thrown")

# Instructions whose effect is the same each time, given the same names. Some note by
# themselves that they have looked at something else: a local variable of the live
# frame, an attribute of what is no module.
LASTING: Final = ops(
    "PUSH_EXC_INFO", "CHECK_EXC_MATCH", "POP_EXCEPT", "RERAISE", "RAISE_VARARGS",
    "POP_TOP", "COPY", "SWAP", "NOP", "PUSH_NULL", "LOAD_CONST", "LOAD_GLOBAL",
    "LOAD_NAME", "STORE_NAME", "DELETE_NAME", "COMPARE_OP", "IS_OP", "BINARY_OP",
    "UNARY_NOT", "TO_BOOL", "GET_ITER", "FOR_ITER", "END_FOR", "BUILD_STRING",
    "FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "CONVERT_VALUE",
    "LOAD_ASSERTION_ERROR", "JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP", "PRECALL",
    "KW_NAMES", "CALL", "CALL_KW", "WITH_EXCEPT_START", "CONTAINS_OP", "LOAD_ATTR",
    "LOAD_METHOD", "LOAD_DEREF", "COPY_FREE_VARS", "LOAD_FAST", "LOAD_FAST_CHECK",
    "LOAD_FAST_LOAD_FAST", "STORE_FAST", "STORE_FAST_LOAD_FAST",
    "STORE_FAST_STORE_FAST", "DELETE_FAST", "BUILD_TUPLE", "BUILD_LIST", "LIST_EXTEND",
    "LIST_TO_TUPLE", "JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT",
    "POP_JUMP_IF_TRUE", "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_TRUE",
    "POP_JUMP_IF_FALSE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_FALSE",
    "POP_JUMP_IF_NONE", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NONE",
    "POP_JUMP_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE",
    "POP_JUMP_BACKWARD_IF_NOT_NONE", "RETURN_VALUE", "RETURN_CONST",
)  # fmt: skip


class Question(NamedTuple):
    """What was raised where, and whether code ran before that may count.

    ``cls`` is the id of the class, since a metaclass may have its own ``__hash__``.
    """

    offset: int
    cls: int
    dirty: bool
    stored: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """How it ends, as long as what was looked at is the same.

    Keeps nothing alive but code, numbers, strings, and classes of exceptions that are
    raised in place of the one that is thrown. ``outcomes`` has no exception in it:
    ``_THROWN`` stands for the one that is thrown. ``entered`` are the handlers on the
    way. ``bases`` are the ids of the class and of what it inherits from.
    """

    cls: weakref.ref[type]
    bases: tuple[int, ...]
    reads: tuple[Read, ...]
    outcomes: tuple[Outcome, ...]
    entered: tuple[int, ...]

    def holds(self, frame: FrameType, thrown: Value) -> bool:
        """Whether everything that was looked at is as it was."""
        cls = self.cls()
        if cls is None or tuple(map(id, mro(cls))) != self.bases:
            return False
        try:
            for check, name, expected in self.reads:
                if not check(frame, thrown, name, expected):
                    return False
        except values.Unreadable:
            return False
        return True

    def outcomes_for(self, thrown: Value) -> list[Outcome]:
        """The outcomes with ``thrown`` in its place."""
        return [
            Outcome(thrown, UNKNOWN, way.dirty, way.stored)
            if way.raised is _THROWN
            else way
            for way in self.outcomes
        ]


# --- what is looked at ---


def read_of(check: Check, name: Any, value: Value) -> Read | None:
    """The read that ``value`` was found by, or None if it cannot be compared."""
    if not isinstance(value, Known):
        return None
    found = value.value
    if _is_short(found):
        return check, name, (type(found), found)
    if type(found) is tuple and is_stable(found):
        return check, name, [weakref.ref(item) for item in found]
    return (check, name, weakref.ref(found)) if is_stable(found) else None


def _is_short(value: Any) -> bool:
    """Whether a value may be kept to be compared: a number, or a short string."""
    kind = type(value)
    if kind is str:
        return len(value) <= _LONGEST
    return value is None or kind is int or kind is bool


def is_same(found: Any, expected: Any) -> bool:
    """Whether what is there now is what ``read_of`` has seen."""
    kind = type(expected)
    if kind is weakref.ref:
        value = expected()
        return value is not None and found is value
    if kind is tuple:
        return type(found) is expected[0] and bool(found == expected[1])
    return (
        type(found) is tuple
        and len(found) == len(expected)
        and all(item is ref() for item, ref in zip(found, expected, strict=True))
    )


def in_globals(frame: FrameType, thrown: Value, name: str, expected: Any) -> bool:
    """A name of the frame's globals, or a builtin one."""
    found = dict.get(frame.f_globals, name, _MISSING)
    if found is _MISSING:
        found = dict.get(frame.f_builtins, name, _MISSING)
    return is_same(found, expected)


def in_local(frame: FrameType, thrown: Value, index: int, expected: Any) -> bool:
    """Local variable number ``index``."""
    return is_same(values.local(frame, index), expected)


def in_cell(frame: FrameType, thrown: Value, index: int, expected: Any) -> bool:
    """What the cell in local variable ``index`` holds."""
    found = _content(frame, index)
    return isinstance(found, Known) and is_same(found.value, expected)


def _content(frame: FrameType, index: int) -> Value:
    cell = values.local(frame, index)
    return contents(cell) if type(cell) is CellType else UNKNOWN


def in_module(
    frame: FrameType, thrown: Value, place: tuple[Any, str], expected: Any
) -> bool:
    """An attribute of a module."""
    module: ModuleType | None = place[0]()
    if module is None:
        return False
    return is_same(module_dict(module).get(place[1], _MISSING), expected)


def in_thrown(frame: FrameType, thrown: Value, name: str, expected: Any) -> bool:
    """An attribute of the exception."""
    found = attribute(thrown, name)
    return isinstance(found, Known) and is_same(found.value, expected)


def place_read(place: Place, found: Value) -> Read | None:
    """An attribute of an object was looked at, or a method of it is called."""
    if not isinstance(found, Bound):
        return read_of(_in_place, place, found)
    function = found.function
    if type(function) is FunctionType:
        return _in_place, place, _Method(weakref.ref(function))
    if type(function) is MethodDescriptorType and knows(function):
        return read_of(_in_place, place.owner(), found.owner)
    return _in_place, place, _Method(lambda: function)


@dataclass(frozen=True, slots=True)
class _Method:
    """A method, whatever object it belongs to."""

    function: Callable[[], Any]


def _in_place(frame: FrameType, thrown: Value, place: Place, expected: Any) -> bool:
    found = find(frame, place)
    if isinstance(found, Bound):
        return type(expected) is _Method and found.function is expected.function()
    if type(expected) is _Method or not isinstance(found, Known):
        return False
    return is_same(found.value, expected)


def find(frame: FrameType, place: Place) -> Value:
    """What is at a place now."""
    found = _root(frame, place)
    for index, name in enumerate(place.names):
        owner, found = found, attribute(found, name)
        if index >= place.num_sure and isinstance(found, Known):
            if not is_stable(found.value) and not is_exception(owner):
                return UNKNOWN
    return found


def _root(frame: FrameType, place: Place) -> Value:
    if place.kind == LOCAL:
        return Known(values.local(frame, place.root))
    if place.kind == CELL:
        return _content(frame, place.root)
    found = dict.get(frame.f_globals, place.root, _MISSING)
    if found is _MISSING:
        found = dict.get(frame.f_builtins, place.root, _MISSING)
    return UNKNOWN if found is _MISSING else Known(found)


def text_read(thrown: Value) -> Read | None:
    """``str()`` of the exception was looked at."""
    found = text(thrown.value) if isinstance(thrown, Known) else None
    if found is None or len(found) > _LONGEST_TEXT:
        return None
    return _in_text, None, found


def _in_text(frame: FrameType, thrown: Value, name: None, expected: str) -> bool:
    return isinstance(thrown, Known) and text(thrown.value) == expected


def code_read(function: FunctionType) -> Read:
    """It counts what a function does, which a redefinition may change."""
    return _in_code, weakref.ref(function), function.__code__


def _in_code(frame: FrameType, thrown: Value, name: Any, expected: Any) -> bool:
    function = name()
    return function is not None and function.__code__ is expected


# --- keeping ---


def always(frame: FrameType, thrown: Value) -> bool:
    """For a frame without a handler."""
    return True


def recall(
    code: Listing, question: Question, frame: FrameType, thrown: Value
) -> Answer | None:
    """What became of such an exception before, if it will again."""
    if not values.available():
        return None
    answer: Answer
    for answer in code.answers.get(question, ()):
        if answer.holds(frame, thrown):
            return answer
    return None


def answered(
    reads: Sequence[Read] | None,
    outcomes: Sequence[Outcome],
    thrown: Value,
    entered: tuple[int, ...],
) -> Answer | None:
    """What became of ``thrown``, to be kept."""
    cls = class_of(thrown)
    if cls is None or reads is None:
        return None
    kept: list[Outcome] = []
    for way in outcomes:
        raised = _THROWN if way.raised is thrown else way.raised
        if isinstance(raised, Known):
            return None
        kept.append(Outcome(raised, UNKNOWN, way.dirty, way.stored))
    bases = tuple(map(id, mro(cls)))
    return Answer(weakref.ref(cls), bases, tuple(reads), tuple(kept), entered)


def keep(code: Listing, question: Question, answer: Answer) -> None:
    """Remember an answer."""
    if len(code.answers) >= _MOST_QUESTIONS:
        code.answers.clear()
    answers = code.answers.setdefault(question, [])
    if len(answers) >= _MOST_ANSWERS:
        del answers[0]
    answers.append(answer)
