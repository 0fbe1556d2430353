"""What a module of the user's has in itself: variables, and what its functions keep.

Functions and classes of a module are found by their names, so what they keep is no
part of them in a pickle. All of it is taken together: what a default and a variable
share (an ``object()`` that stands for nothing given, a cache) is shared again.
"""

from __future__ import annotations

import abc
import gc
import types
from collections.abc import Collection, Iterator, Mapping
from types import CellType, FunctionType, ModuleType
from typing import Any

from gpurescue.state.lost import Lost

_ROOT = "<module {}>"
_DEFAULTS = ("__defaults__", "__kwdefaults__")
_NEVER = ("_abc_impl",)  # what ABCMeta keeps; nobody can write it down
_UNSEEN = (ModuleType, types.CodeType, types.FrameType, types.BuiltinFunctionType)
_OWNERS = (ModuleType, type, FunctionType)
_missing = object()

Place = tuple[Any, str]


def variables_of(modules: Mapping[str, ModuleType]) -> dict[str, dict[str, Any]]:
    """What modules have in themselves, as variables of a run.

    Args:
        modules: By name.

    Returns:
        By the name of a variable that no user has: values by the way to each, such as
        ``counter``, ``Config.rate``, ``fit.__defaults__``, or ``fit.<calls>`` for a
        variable of the function that has made ``fit``.
    """
    walk = _Walk({"__main__", *modules})
    return {_ROOT.format(n): dict(walk.inside(m)) for n, m in modules.items()}


def modules_of(variables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same by the modules' names, of the variables of a run."""
    start, end = _ROOT.split("{}")
    return {
        name[len(start) : -len(end)]: value
        for name, value in variables.items()
        if name.startswith(start)
    }


class _Walk:
    """Looks into modules.

    Args:
        users: Names of the modules of the user.
    """

    def __init__(self, users: set[str]) -> None:
        self._users = users
        self._module = ""
        self._seen: set[int] = set()  # functions: one that has itself in a cell

    def inside(self, module: ModuleType) -> Iterator[tuple[str, Any]]:
        self._module = module.__name__
        for name, value in list(vars(module).items()):
            if _is_systems(name) or isinstance(value, ModuleType):
                continue
            if self._is_own(value, name):
                yield from self._of(value, name)
            else:
                yield name, value

    def _is_own(self, value: Any, name: str) -> bool:
        """True for a function or class that the module's code has defined there."""
        return (
            isinstance(value, FunctionType | type)
            and value.__module__ == self._module
            and value.__qualname__ == name
        )

    def _of(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, FunctionType):
            yield from self._of_function(value, path)
        elif type(value) in {type, abc.ABCMeta}:  # not an Enum, not what others keep
            yield from self._of_class(value, path)

    def _of_class(self, kind: type, path: str) -> Iterator[tuple[str, Any]]:
        for name, value in list(vars(kind).items()):
            inner = f"{path}.{name}"
            function = getattr(value, "__func__", value)  # of a class or static method
            if self._is_own(function, inner):
                yield from self._of(function, inner)
            elif isinstance(function, FunctionType):
                if function.__module__ in self._users:
                    yield inner, value  # it was put in the place of another
            elif not _is_systems(name) and _is_plain(name, value):
                yield inner, value

    def _of_function(
        self, function: FunctionType, path: str
    ) -> Iterator[tuple[str, Any]]:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        for name in _DEFAULTS:
            if (value := getattr(function, name)) is not None:
                yield f"{path}.{name}", value
        for name, value in list(function.__dict__.items()):
            if name.isidentifier() and not isinstance(value, FunctionType):
                yield f"{path}.{name}", value
        for name, cell in _cells(function).items():
            value, inner = _content(cell), f"{path}.<{name}>"
            if isinstance(value, FunctionType) and value.__module__ == self._module:
                yield from self._of_function(value, inner)  # what a decorator wraps
            elif value is not _missing and not isinstance(value, FunctionType | type):
                yield inner, value


def _is_systems(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_plain(name: str, value: Any) -> bool:
    return not (hasattr(type(value), "__get__") or name in _NEVER)


def _cells(function: FunctionType) -> dict[str, CellType]:
    names = function.__code__.co_freevars
    return dict(zip(names, function.__closure__ or (), strict=True))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _missing


# -- back again


class Given:
    """What modules were given, to be taken back if it comes to nothing."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def give(
        self, module: ModuleType, values: Mapping[str, Any], stays: Collection[str]
    ) -> None:
        """Give a module what it had in itself.

        Args:
            module: As it was imported here.
            values: As ``variables_of`` has them.
            stays: The ways to what is to be as the import has made it.
        """
        for path, value in values.items():
            place = None if path in stays else _place(module, path)
            if place is not None:
                self._set(*place, value)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._before.append((owner, name, _get(owner, name)))
        _put(owner, name, value)

    def take_back(self) -> None:
        """Have all modules as they were."""
        while self._before:
            _put(*self._before.pop())


def _place(module: ModuleType, path: str) -> Place | None:
    """Where a value is, and under which name; None if there is no such place."""
    *way, last = path.split(".")
    owner: Any = module
    for name in way:
        if not isinstance(owner, _OWNERS):
            return None
        found = _get(*_at(owner, name))
        owner = getattr(found, "__func__", found)
    return _at(owner, last) if isinstance(owner, _OWNERS) else None


def _at(owner: Any, name: str) -> Place:
    if not name.startswith("<"):
        return owner, name
    cells = _cells(owner) if isinstance(owner, FunctionType) else {}
    return cells.get(name[1:-1], CellType()), name


def _get(owner: Any, name: str) -> Any:
    if isinstance(owner, CellType):
        return _content(owner)
    if name in _DEFAULTS:
        return getattr(owner, name)
    return vars(owner).get(name, _missing)


def _put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, CellType):
        if value is _missing:
            del owner.cell_contents
        else:
            owner.cell_contents = value
        return
    setter = type if isinstance(owner, type) else object  # nobody else has a say
    if value is _missing:
        setter.__delattr__(owner, name)
    else:
        setter.__setattr__(owner, name, value)


def unkept(values: Mapping[str, Any]) -> set[str]:
    """The ways to what leads, in however many steps, to what could not be kept."""
    owners: dict[int, list[int]] = {}
    waiting = list(values.values())
    seen = {id(value): value for value in waiting}
    found: list[int] = []
    while waiting:
        value = waiting.pop()
        if type(value) is Lost:
            found.append(id(value))
        for inner in _referents(value):
            owners.setdefault(id(inner), []).append(id(value))
            if id(inner) not in seen:
                seen[id(inner)] = inner
                waiting.append(inner)
    reached: set[int] = set()
    while found:
        number = found.pop()
        if number not in reached:
            reached.add(number)
            found += owners.get(number, ())
    return {name for name, value in values.items() if id(value) in reached}


def _referents(value: Any) -> list[Any]:
    """What belongs to a value: neither its class nor the globals of its functions."""
    if isinstance(value, _UNSEEN) or isinstance(value, type):
        return []
    if isinstance(value, FunctionType):
        own = (value.__closure__, value.__defaults__, value.__kwdefaults__)
        return [*own, value.__dict__]
    return gc.get_referents(value)
