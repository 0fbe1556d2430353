"""Redefinitions that reach what is already there (dynamic software update).

Running a ``def`` or ``class`` again makes a new object; everything that got hold of
the old one goes on with the old code. While a run is alive that is never what the
user wants, so the old function gets the new code, and the old class the new body:
bound methods, instances, decorated and registered references all see it.
"""

from __future__ import annotations

import ast
import enum
import functools
import gc
import inspect
import warnings
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, MemberDescriptorType
from typing import Any

from gpurescue.errors import PatchRejected
from gpurescue.source import cells, versions
from gpurescue.source.cells import Definition
from gpurescue.source.remainder import BOX

_PLAIN = (FunctionType, staticmethod, classmethod)
_KEPT = {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__"}


class Redefinitions:
    """Which definition has taken the place of which."""

    def __init__(self) -> None:
        self._newer: dict[tuple[str, int], tuple[str, int]] = {}
        self._gone: dict[tuple[str, str], CodeType] = {}
        self.log: list[tuple[str, int]] = []
        self._subscribers: list[Callable[[Definition, Definition], None]] = []

    def subscribe(self, subscriber: Callable[[Definition, Definition], None]) -> None:
        """Call ``subscriber(old, new)`` for each function that is redefined."""
        self._subscribers.append(subscriber)

    def latest(self, definition: Definition) -> Definition:
        """The newest version of a function."""
        key, seen = definition.key, {definition.key}
        while (newer := self._newer.get(key)) is not None and newer not in seen:
            seen.add(newer)
            key = newer
        unit = cells.unit(key[0])
        found = unit.definitions.get(key[1]) if unit is not None else None
        return found or definition

    def is_gone(self, definition: Definition) -> bool:
        """True if the newest version of what holds a function has it no more."""
        code = self._gone.get(_place(definition))
        return code is not None and cells.definition(code) is definition

    def redefined(self, old: Any, new: Any) -> Any:
        """Carry ``new`` into ``old``; the result is what the name should mean.

        Raises:
            PatchRejected: The two do not fit; nothing was changed.
        """
        if isinstance(old, type) and isinstance(new, type):
            return self._redefine_class(old, new)
        before, after = _innermost(old), _innermost(new)
        if before is None or after is None or before is after:
            return new
        self.supersede(before.__code__, after.__code__)
        _update_function(before, after)
        if before is old and after is new:
            return old
        return new

    def supersede(self, old: CodeType, new: CodeType) -> None:
        """Give every function that runs ``old``, or code in it, the new code."""
        if old is new or _identity(old) == _identity(new):
            return
        pairs = _partners(old, new)
        self._note_gone(old, {id(before) for before, _ in pairs})
        pairs += self._found_again(new)
        running = _running([before for before, _ in pairs])
        for (before, after), functions in zip(pairs, running, strict=True):
            self._supersede_one(before, after, functions)

    def _note_gone(self, old: CodeType, paired: set[int]) -> None:
        for code in (code for codes in by_name(old).values() for code in codes):
            definition = None if id(code) in paired else cells.definition(code)
            if definition is not None and definition.line:
                self._gone[_place(definition)] = code

    def _found_again(self, new: CodeType) -> list[tuple[CodeType, CodeType]]:
        """What an edit has taken out, and this one has put back."""
        found: list[tuple[CodeType, CodeType]] = []
        for codes in by_name(new).values() if self._gone else ():
            definition = cells.definition(codes[0]) if len(codes) == 1 else None
            if definition is not None:
                before = self._gone.pop(_place(definition), None)
                found += [(before, codes[0])] if before is not None else []
        return found

    def replace(self, before: Definition, after: Definition) -> None:
        """Note that ``after`` is the newer version of ``before``."""
        is_module = before.unit.is_file and not before.line  # it is not run again
        is_known = before.key == after.key or self._newer.get(before.key) == after.key
        if is_known or is_module:
            return
        # An edit taken back makes an old definition the newest again.
        self._newer.pop(after.key, None)
        self._newer[before.key] = after.key
        if ast.dump(before.scope) != ast.dump(after.scope):
            self.log.append(after.key)
            for subscriber in self._subscribers:
                subscriber(before, after)

    def _supersede_one(
        self, old: CodeType, new: CodeType, functions: list[FunctionType]
    ) -> None:
        before, after = cells.definition(old), cells.definition(new)
        if before is not None and after is not None:
            self.replace(before, after)
        documented = _documentation(old), _documentation(new)
        for function in functions:
            if function.__code__.co_freevars != new.co_freevars:
                continue  # its cells are of other variables
            _set_code(function, new)
            if function.__doc__ == documented[0]:
                function.__doc__ = documented[1]

    def _redefine_class(self, old: type, new: type) -> type:
        if type(old) is not type(new) or old.__qualname__ != new.__qualname__:
            return new
        _check_layout(old, new)
        if isinstance(old, enum.EnumMeta):
            return self._redefine_enum(old, new)
        gone = [n for n in vars(old) if n not in vars(new) and n not in _KEPT]
        for name, value in list(vars(new).items()):
            if name not in _KEPT and not isinstance(value, MemberDescriptorType):
                self._redefine_attribute(old, new, name, value)
        for name in gone:  # last: nothing that is there may need it any more
            if not isinstance(vars(old)[name], type):
                for function in functions_in(vars(old)[name]):
                    self._note_gone(function.__code__, set())
                delattr(old, name)
        old.__doc__ = new.__doc__
        return old

    def _redefine_enum(self, old: type, new: type) -> type:
        """All that can change is functions: the members are what others hold."""
        for name, value in list(vars(new).items()):
            if any(f.__module__ == new.__module__ for f in functions_in(value)):
                self._redefine_attribute(old, new, name, value)
        return old

    def _redefine_attribute(self, old: type, new: type, name: str, value: Any) -> None:
        current = vars(old).get(name)
        if isinstance(value, type):
            self._redefine_inner_class(old, new, name, value)
            return
        for function in functions_in(value):
            _point_class_cell(function, old, new)
            for before, after in self._found_again(function.__code__):
                self.supersede(before, after)
        if self._update_all(current, value) and isinstance(value, _PLAIN):
            return
        setattr(old, name, value)

    def _redefine_inner_class(
        self, old: type, new: type, name: str, value: type
    ) -> None:
        current = vars(old).get(name)
        if isinstance(current, type) and current.__qualname__ == value.__qualname__:
            setattr(old, name, self._redefine_class(current, value))
        elif not _refers_to(value, new):
            setattr(old, name, value)
        # Else a metaclass has made it for the class itself: the old one's stays.

    def _update_all(self, current: Any, value: Any) -> bool:
        """Carry each function of ``value`` into its partner in ``current``."""
        before, after = list(functions_in(current)), list(functions_in(value))
        if type(current) is not type(value) or len(before) != len(after):
            return False
        updated = []
        for old, new in zip(before, after, strict=True):
            if old is not new:
                self.supersede(old.__code__, new.__code__)
                updated.append(_update_function(old, new))
        return bool(updated) and all(updated)


def _innermost(value: Any) -> FunctionType | None:
    """The user's own function under methods, properties and decorators."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def functions_in(value: Any) -> Iterator[FunctionType]:
    """The user's own functions in an attribute of a class."""
    parts: tuple[Any, ...] = (value,)
    if isinstance(value, property):
        parts = (value.fget, value.fset, value.fdel)
    elif isinstance(value, functools.cached_property):
        parts = (value.func,)
    for part in parts:
        if (function := _innermost(part)) is not None:
            yield function


def _update_function(old: FunctionType, new: FunctionType) -> bool:
    """Make ``old`` behave as ``new``; False if their closures do not fit."""
    if old.__code__.co_freevars != new.__code__.co_freevars:
        return False
    _set_code(old, new.__code__)
    old.__defaults__ = new.__defaults__
    old.__kwdefaults__ = new.__kwdefaults__
    old.__annotations__ = new.__annotations__
    old.__doc__ = new.__doc__
    return True


def _set_code(function: FunctionType, code: CodeType) -> None:
    if function.__code__.co_flags == code.co_flags:
        function.__code__ = code
        return
    with warnings.catch_warnings():
        # A generator that becomes a plain function: deprecated since CPython 3.13,
        # as who looked at its kind before is not told. Here the user has edited it.
        warnings.simplefilter("ignore", DeprecationWarning)
        function.__code__ = code


def _point_class_cell(function: FunctionType, old: type, new: type) -> None:
    """``super()`` in the new methods must mean the class that instances have."""
    for cell in function.__closure__ or ():
        try:
            if cell.cell_contents is new:
                cell.cell_contents = old
        except ValueError:  # the cell is still empty
            continue


def _check_layout(old: type, new: type) -> None:
    """Refuse a class that live instances cannot have; takes over the new bases.

    Raises:
        PatchRejected: With the reason; nothing was changed.
    """
    reason = _unfit(old, new)
    bases = tuple(old if base is new else base for base in new.__bases__)
    if not reason and bases != old.__bases__:
        try:
            old.__bases__ = bases
        except TypeError as error:
            reason = str(error)
    if reason:
        raise PatchRejected(
            f"The new {new.__qualname__} cannot take the place of the class that live "
            f"instances have: {reason}. They keep the old one."
        )


def _unfit(old: type, new: type) -> str:
    """Why instances of ``old`` cannot be those of ``new``; empty if they can."""
    if isinstance(old, enum.EnumMeta) and _members(old) != _members(new):
        return "its members are others"
    if _slots(old) != _slots(new):
        return "its slots are others"
    if issubclass(old, tuple) and vars(old).get("_fields") != vars(new).get("_fields"):
        return "its fields are others"
    return ""


def _members(kind: type) -> dict[str, str]:
    found: dict[str, Any] = kind.__dict__["_member_map_"]
    return {name: repr(member.value) for name, member in found.items()}


def _slots(kind: type) -> set[str]:
    found = vars(kind).items()
    return {name for name, value in found if isinstance(value, MemberDescriptorType)}


def _refers_to(value: type, target: type) -> bool:
    return any(attribute is target for attribute in vars(value).values())


def _partners(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]]:
    """``old`` and all code in it, each with what has its name in ``new``."""
    before, after = by_name(old), by_name(new)
    return [
        pair
        for name in before.keys() & after.keys()
        for pair in _namesakes(before[name], after[name])
    ]


def _namesakes(
    old: list[CodeType], new: list[CodeType]
) -> list[tuple[CodeType, CodeType]]:
    """Which is which, where several have one name: a property's parts, lambdas.

    One that says what one other says is the same; of the rest their order tells if
    there are as many as before, or else their arguments.
    """
    found: list[tuple[CodeType, CodeType]] = []
    rest_old, rest_new = list(old), list(new)
    if len(old) > 1 or len(new) > 1:
        for code in old:
            alike = [c for c in old if _content(c) == _content(code)]
            same = [c for c in new if _content(c) == _content(code)]
            if len(alike) == len(same) == 1:
                rest_old.remove(code)
                rest_new.remove(same[0])
                found.append((code, same[0]))
    if len(rest_old) == len(rest_new):
        return [*found, *zip(rest_old, rest_new, strict=True)]
    for code in rest_old:
        own = [c for c in rest_old if _arguments(c) == _arguments(code)]
        alike = [c for c in rest_new if _arguments(c) == _arguments(code)]
        if len(own) == len(alike) == 1:
            found.append((code, alike[0]))
    return found


def _content(code: CodeType) -> tuple[object, ...]:
    """What code says, wherever it stands."""
    constants = [
        _content(constant) if isinstance(constant, CodeType) else repr(constant)
        for constant in versions.unmarked(code).co_consts
    ]
    return code.co_code, code.co_names, code.co_varnames, *constants


def _arguments(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _place(definition: Definition) -> tuple[str, str]:
    """What stays the same over all versions: cells share their names."""
    unit = definition.unit
    return unit.path if unit.is_file else "", definition.qualname


def by_name(code: CodeType) -> dict[str, list[CodeType]]:
    """``code`` and all code in it, by its name relative to ``code``."""
    is_body = code.co_name == "<module>"  # no part of the names in it
    start = 0 if is_body else len(code.co_qualname)
    found: dict[str, list[CodeType]] = {}

    def add(inner: CodeType) -> None:
        found.setdefault(inner.co_qualname[start:], []).append(inner)
        for constant in inner.co_consts:
            if isinstance(constant, CodeType):
                add(constant)

    add(code)
    return found


def _documentation(code: CodeType) -> str | None:
    cells = tuple(CellType() for _ in code.co_freevars)
    return FunctionType(code, {}, closure=cells).__doc__


def defaults_of(definition: Definition) -> dict[str, Any]:
    """Default values of a function's parameters, from a live function object."""
    for function in gc.get_objects():
        if type(function) is not FunctionType:  # asks no object for its __class__
            continue
        code = function.__code__
        is_file = code.co_filename == definition.unit.path
        if is_file and cells.definition(code) is definition:
            positional = code.co_varnames[: code.co_argcount]
            values = function.__defaults__ or ()
            last = positional[len(positional) - len(values) :]
            return dict(zip(last, values, strict=True)) | (
                function.__kwdefaults__ or {}
            )
    return {}


def _running(codes: list[CodeType]) -> list[list[FunctionType]]:
    """The functions that run each of these, in whatever copy of the code."""
    found: dict[object, list[FunctionType]] = {_identity(code): [] for code in codes}
    files = {code.co_filename for code in codes}
    # A cell's own code is run by no function, and to look takes 40 ms of a large heap.
    if any(code.co_flags & inspect.CO_NEWLOCALS for code in codes):
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename in files:
                key = _identity(thing.__code__)
                is_rest = thing.__code__.co_varnames[:1] == (
                    BOX,
                )  # runs once, as it is
                if key in found and not is_rest:
                    found[key].append(thing)
    return [found[_identity(code)] for code in codes]


def _identity(code: CodeType) -> object:
    # A continuation compiles the functions in it once more. Lambdas have no name.
    if code.co_name.startswith("<"):
        return id(code)
    return versions.source_name(code), code.co_firstlineno, code.co_qualname
