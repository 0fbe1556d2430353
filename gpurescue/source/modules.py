"""The user's modules that are loaded, each with the version that it was loaded from."""

from __future__ import annotations

import _imp
import ast
import gc
import importlib.util
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any

from gpurescue.source import cells, folders
from gpurescue.source.cells import Unit
from gpurescue.source.folders import Folders
from gpurescue.source.quiet import compiled

_log = logging.getLogger(__name__)

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One version of a file, with guards in it.

    Attributes:
        unit: Its source.
        code: All of it.
        stamp: What the file system said of the file; None if it is gone.
    """

    unit: Unit
    code: CodeType
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a module was before the user reloaded it."""

    names: dict[str, Any]
    code: CodeType


@dataclass(slots=True, eq=False)
class Loaded:
    """A module with guards in it.

    Attributes:
        name: Its name in ``sys.modules``.
        path: Its file, as the import system calls it.
        label: What to call the file: its way from the notebook's folder.
        version: The version that is loaded.
        module: The module itself.
        body: The statements that are in force: those of the version, as a rule.
        replaced: What it was before each reload that nobody has looked at yet.
        problem: Why not all of the version is in force; empty as a rule.
    """

    name: str
    path: str
    label: str
    version: Compiled
    module: weakref.ref[ModuleType]
    body: list[ast.stmt]
    replaced: list[Replaced] = field(default_factory=list)
    problem: str = ""

    @property
    def names(self) -> dict[str, Any] | None:
        """The module's variables; None if it is gone."""
        module = self.module()
        return None if module is None else vars(module)

    def advance(self, version: Compiled) -> None:
        """Another version is loaded from now on.

        What still runs the old code (frames, above all) is shown with the old text,
        under a name that says so; the file's own name is that of the new one.
        """
        old, self.version = self.version, version
        self.body, self.problem = version.unit.tree.body, ""
        if version.unit is not old.unit:
            _rename(old.code, old.unit.filename)


def _rename(code: CodeType, filename: str) -> None:
    # What the import system does to code from __pycache__ whose file was moved.
    _imp._fix_co_filename(code, filename)  # type: ignore[attr-defined]


class Modules:
    """All of them, by name.

    Args:
        folders: Which files are the user's.
        keeps_replaced: Tells whether what a reload replaces is wanted.
    """

    def __init__(
        self, folders: Folders, keeps_replaced: Callable[[], bool] = lambda: False
    ) -> None:
        self.folders = folders
        self._keeps_replaced = keeps_replaced
        self._loaded: dict[str, Loaded] = {}
        self._compiled: dict[str, Compiled] = {}

    def __iter__(self) -> Iterator[Loaded]:
        return iter([found for found in self._loaded.values() if found.module()])

    def compiled(self, path: str) -> Compiled | None:
        """A file as it is now, with guards in it; None if it is to stay plain."""
        try:
            return self.read(path)
        except (OSError, SyntaxError, ValueError):
            return None  # the import system is about to say so itself
        except Exception:  # noqa: BLE001 - never make it worse
            _log.exception("%s is loaded without guards.", path)
            return None

    def read(self, path: str) -> Compiled | None:
        """The same.

        Raises:
            OSError, SyntaxError, ValueError: As the import system would.
        """
        stamp = stamp_of(path)  # first: what is saved meanwhile must be seen later
        with open(path, "rb") as file:
            content = file.read()
        if folders.is_left_out(content):
            return None
        source = importlib.util.decode_source(content)
        known = self._compiled.get(path)
        if known is not None and known.unit.source == source:
            return replace(known, stamp=stamp)
        compile(source, path, "exec", dont_inherit=True)  # shows its warnings, once
        unit = cells.version(source, path)
        code = cells.compile_version(unit)
        found = self._compiled[path] = Compiled(unit=unit, code=code, stamp=stamp)
        return found

    def loading(self, name: str, path: str, version: Compiled) -> None:
        """A module is about to be executed, perhaps once more."""
        module = sys.modules.get(name)
        if module is None:
            return
        known = self._loaded.get(name)
        if known is None or known.module() is not module or known.path != path:
            self._loaded[name] = self._new(name, path, version, module)
            return
        if self._keeps_replaced():
            old = Replaced(dict(vars(module)), known.version.code)
            known.replaced.append(old)
        known.advance(version)

    def adopt(self) -> list[str]:
        """Guard the user's modules that are loaded already, in place.

        Returns:
            Labels of the files that were edited since: they stay as they are.
        """
        waiting = list(self._plain_modules())
        if not waiting:
            return []
        functions = _functions_by_file({path for _, path, _ in waiting})
        stale: list[str] = []
        for name, path, version in waiting:
            if _guard_in_place(functions.get(path, ()), version):
                module = sys.modules[name]
                self._loaded[name] = self._new(name, path, version, module)
            else:
                stale.append(self.folders.label(path))
        return stale

    def _plain_modules(self) -> Iterator[tuple[str, str, Compiled]]:
        for name, module in list(sys.modules.items()):
            path = plain_path(getattr(module, "__spec__", None))
            if path is None or name == "__main__" or not self.folders.holds(path):
                continue
            version = self.compiled(path)
            if version is not None and isinstance(module, ModuleType):
                yield name, path, version

    def _new(
        self, name: str, path: str, version: Compiled, module: ModuleType
    ) -> Loaded:
        return Loaded(
            name=name,
            path=path,
            label=self.folders.label(path),
            version=version,
            module=weakref.ref(module),
            body=version.unit.tree.body,
        )


def plain_path(spec: Any) -> str | None:
    """The file of a module that Python's own loader loads from source."""
    if spec is None or type(spec.loader) is not SourceFileLoader:
        return None
    return str(spec.loader.path)


def stamp_of(path: str) -> Stamp | None:
    """What changes when a file is saved; None if there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _functions_by_file(paths: set[str]) -> dict[str, list[FunctionType]]:
    found: dict[str, list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename in paths:
            found.setdefault(thing.__code__.co_filename, []).append(thing)
    return found


def _guard_in_place(functions: Iterable[FunctionType], version: Compiled) -> bool:
    """Give functions guarded code, if their own is what the file says now."""
    unit = version.unit
    plain = compiled(unit.source, unit.path)
    before, after = _by_place(plain), _by_place(version.code)
    pairs: list[tuple[FunctionType, CodeType]] = []
    for function in functions:
        place = _place(function.__code__)
        known = [_is_same(function.__code__, code) for code in before.get(place, ())]
        if True not in known or len(known) != len(after.get(place, ())):
            return False
        pairs.append((function, after[place][known.index(True)]))
    for function, guarded in pairs:
        if guarded.co_freevars == function.__code__.co_freevars:
            function.__code__ = guarded
    return True


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _by_place(code: CodeType) -> dict[tuple[str, int], list[CodeType]]:
    """All code in ``code``; a line may hold several lambdas."""
    found: dict[tuple[str, int], list[CodeType]] = {}
    waiting = [code]
    while waiting:
        inner = waiting.pop(0)
        found.setdefault(_place(inner), []).append(inner)
        waiting += [c for c in inner.co_consts if isinstance(c, CodeType)]
    return found


_PARTS = (
    "co_code co_names co_varnames co_freevars co_cellvars co_flags co_argcount "
    "co_posonlyargcount co_kwonlyargcount co_exceptiontable co_linetable"
).split()


def _is_same(one: CodeType, other: CodeType) -> bool:
    """Tell whether two code objects were compiled from the same text."""
    return all(getattr(one, p) == getattr(other, p) for p in _PARTS) and _are_same(
        one.co_consts, other.co_consts
    )


def _are_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(map(_is_same_constant, one, other))


def _is_same_constant(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, CodeType):
        return _is_same(one, other)
    if isinstance(one, tuple):
        return _are_same(one, other)
    # 0.0 and -0.0 are equal, and a set has no order.
    return bool(
        one == other if isinstance(one, frozenset) else repr(one) == repr(other)
    )
