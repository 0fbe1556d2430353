"""Saved edits of the user's modules, carried into what is loaded.

``read`` compiles what was saved, and a mistake in it changes nothing; ``carry`` puts
it in force, and its ``Outcome`` says what that did.
"""

from __future__ import annotations

import ast
import contextlib
import enum
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType, FunctionType, MemberDescriptorType
from typing import Any

from gpurescue.errors import PatchRejected
from gpurescue.recovery import guards
from gpurescue.recovery.carrying import carried, defined
from gpurescue.recovery.hotswap import Redefinitions, by_name, functions_in
from gpurescue.source import align, cells, versions
from gpurescue.source import changes as compared
from gpurescue.source import tree as trees
from gpurescue.source.changes import Change, Kind
from gpurescue.source.modules import Compiled, Loaded, Modules, Stamp, stamp_of

_log = logging.getLogger(__name__)

Names = dict[str, Any]

_MOST_LEFT, _MOST_NAMES = 3, 8
_LOCALS = ".<locals>."


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A file that was saved, ready to be carried.

    Attributes:
        loaded: The module, as it is.
        version: The file, as it was saved.
        changes: What is to be done, in order.
        parts: The code of each of these changes by itself.
    """

    loaded: Loaded
    version: Compiled
    changes: tuple[Change, ...]
    parts: tuple[CodeType, ...]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of an edit.

    Attributes:
        label: What to call the file.
        names: Functions, classes and variables that are new or different.
        assigned: Assignments that were run.
        aliased: Variables whose old value somebody has imported.
        left: What was not run again.
        refused: Why something new cannot take the place of what is there.
    """

    label: str
    names: list[str] = field(default_factory=list)
    assigned: list[Change] = field(default_factory=list)
    aliased: list[str] = field(default_factory=list)
    left: list[ast.stmt] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line for the user; empty if nothing is different."""
        parts: list[str] = []
        if self.aliased:
            names = _listed(self.aliased)
            parts.append(f"{names} keeps its value where it was imported by name")
        parts += [
            f"not run again: line {node.lineno} `{align.first_line(node)}`"
            for node in self.left[:_MOST_LEFT]
        ]
        if len(self.left) > _MOST_LEFT:
            parts.append(f"and {len(self.left) - _MOST_LEFT} more")
        parts += [text.removesuffix(".") for text in self.refused]
        if self.names:
            return "; ".join([f"{self.label} as saved: {_listed(self.names)}", *parts])
        return f"{self.label}: {'; '.join(parts)}" if parts else ""


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    num_more = len(found) - _MOST_NAMES
    more = f" and {num_more} more" if num_more > 0 else ""
    return ", ".join(found[:_MOST_NAMES]) + more


def saved(modules: Modules) -> list[Loaded]:
    """The modules whose files were saved since they were loaded."""
    found = stamps(modules)
    return [loaded for loaded in modules if loaded.name in found]


def stamps(modules: Modules) -> dict[str, Stamp]:
    """What the file system says of the files that were saved, by module."""
    found = {loaded.name: stamp_of(loaded.path) for loaded in modules}
    return {
        loaded.name: stamp
        for loaded in modules
        if (stamp := found[loaded.name]) not in (loaded.version.stamp, None)
    }


def read(modules: Modules, loaded: Loaded) -> Edit | None:
    """The edit that was saved; None if the file says the same as before.

    Raises:
        PatchRejected: It cannot be parsed; nothing was changed.
    """
    try:
        version = modules.read(loaded.path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line} of {loaded.label}" if line else loaded.label
        reason = getattr(error, "msg", None) or str(error)
        raise PatchRejected(
            f"What was saved cannot be parsed: {reason} ({where}); until it is mended "
            "and saved, all stays as it was."
        ) from error
    except OSError:
        return None  # it is just being saved
    if version is None:  # it is to stay plain, from the next time it is imported
        return None
    if version.unit is loaded.version.unit and loaded.body is version.unit.tree.body:
        loaded.version = replace(loaded.version, stamp=version.stamp)
        return None
    found = compared.changes(loaded.body, version.unit.tree.body)
    parts = tuple(cells.compile_version(version.unit, [c.index]) for c in found)
    return Edit(loaded=loaded, version=version, changes=tuple(found), parts=parts)


def check(modules: Modules) -> None:
    """Ask whether all that was saved and read is in force.

    Raises:
        PatchRejected: A statement failed when it was run, and was not mended yet.
    """
    for loaded in modules:
        if loaded.problem:
            raise PatchRejected(loaded.problem)


def carry(
    edit: Edit, redefinitions: Redefinitions, others: Iterable[Names] = ()
) -> Outcome:
    """Put an edit in force.

    While a run is running, this belongs into its thread, between two lines: then no
    code of the run's sees a class that is half exchanged. Frames that are running go
    on in the code that they have; ``redefinitions`` knows what is newer.

    Args:
        edit: What was saved.
        redefinitions: Is told what takes the place of what.
        others: Namespaces that may have imported something from the module.

    Raises:
        PatchRejected: A statement failed; those before it are in force.
    """
    loaded, start = edit.loaded, len(redefinitions.log)
    redefinitions.supersede(loaded.version.code, edit.version.code)
    loaded.advance(edit.version)
    heal(loaded)
    carrier = _Carrier(edit, redefinitions, others)
    carrier.name_functions(redefinitions.log[start:])
    for done, (change, code) in enumerate(zip(edit.changes, edit.parts, strict=True)):
        try:
            with guards.aside():
                carrier.apply(change, code)
        except Exception as error:
            _stays_open(edit, edit.changes[done:])
            loaded.problem = (
                f"Line {change.node.lineno} of {loaded.label} failed when it was run: "
                f"{type(error).__name__}: {error}; what stands above it is in force. "
                "Mend it and save it again."
            )
            raise PatchRejected(loaded.problem) from error
    return carrier.finish()


def heal(loaded: Loaded) -> None:
    """Guard functions that another tool has compiled from the file.

    ``%autoreload`` does so for what was edited while no run was alive.
    """
    codes = by_name(loaded.version.code)
    for name, value in list((loaded.names or {}).items()):
        attributes = vars(value).values() if isinstance(value, type) else ()
        own = filter(None, (defined(value, name),))
        inner = [f for attribute in attributes for f in functions_in(attribute)]
        for function in (*own, *inner):
            code = function.__code__
            found = codes.get(function.__qualname__, ())
            if versions.source_name(code) == loaded.path and len(found) == 1:
                if found[0].co_freevars == code.co_freevars:
                    function.__code__ = found[0]


def settle(loaded: Loaded, redefinitions: Redefinitions) -> None:
    """Carry what the user's own reload has made into what was there before."""
    replaced, loaded.replaced = loaded.replaced, []
    for old in replaced:
        redefinitions.supersede(old.code, loaded.version.code)
    names = loaded.names or {}
    for old in replaced[:1]:
        for name, value in old.names.items():
            new = names.get(name, value)
            if new is not value and callable(value):
                names[name] = carried(redefinitions, name, value, new)


def _stays_open(edit: Edit, rest: Sequence[Change]) -> None:
    """What was not done yet is compared with what was there before, next time."""
    skipped = {id(change.node) for change in rest}
    body = [n for n in edit.version.unit.tree.body if id(n) not in skipped]
    edit.loaded.body = [*body, *(c.before for c in rest if c.before is not None)]


class _Carrier:
    """Puts the changes of one edit in force, one by one."""

    def __init__(
        self, edit: Edit, redefinitions: Redefinitions, others: Iterable[Names]
    ) -> None:
        self.outcome = Outcome(label=edit.loaded.label)
        self._unit = edit.version.unit
        self._names = edit.loaded.names or {}
        self._before = dict(self._names)
        self._overruled: set[str] = set()
        self._redefinitions = redefinitions
        self._others = [names for names in others if names is not self._names]

    def name_functions(self, keys: Iterable[tuple[str, int]]) -> None:
        """Note which functions say something else than before."""
        for filename, line in keys:
            if filename == self._unit.filename:
                name = self._unit.definitions[line].qualname
                self.outcome.names.append(name.partition(_LOCALS)[0])

    def apply(self, change: Change, code: CodeType) -> None:
        """Do what is to be done about one statement."""
        if change.kind is Kind.OTHER:
            self.outcome.left.append(change.node)
        elif change.kind is Kind.ASSIGNS and not compared.is_lambda(change.node):
            self._assign(change, code)
        elif change.kind is not Kind.BODIES or not self._is_in_force(change):
            self._define(change, code)

    def _assign(self, change: Change, code: CodeType) -> None:
        """Give variables a value if they are new, or have the one that was written."""
        before = {name: self._before.get(name) for name in change.names}
        if change.before is not None and not _is_as_written(change, before):
            self.outcome.left.append(change.node)
            return
        exec(code, self._names)
        self._note_set(change)
        self.outcome.assigned.append(change)
        self.outcome.aliased += [
            name
            for name, old in before.items()
            if old is not None and any(o.get(name) is old for o in self._others)
        ]

    def _define(self, change: Change, code: CodeType) -> None:
        """Run a definition; what it makes takes the place of what was there."""
        exec(code, self._names)
        for name in change.names:
            old, new = self._before.get(name), self._names.get(name)
            if old is not None and new is not old:
                _keep_unchanged(change, old, new)
                if name in change.last:
                    made = self._exchanged(change, name, old, new)
                    self._names[name] = made
                elif name in change.wrapped:
                    self._carried(name, old, new)
        self._note_set(change)

    def _note_set(self, change: Change) -> None:
        self._overruled |= set(change.names)
        self._overruled -= set(change.last)
        if not isinstance(change.node, ast.Import | ast.ImportFrom):
            self.outcome.names += change.names

    def finish(self) -> Outcome:
        """What a later statement sets that was not run again means what it did."""
        for name in self._overruled & self._before.keys():
            self._names[name] = self._before[name]
        return self.outcome

    def _exchanged(self, change: Change, name: str, old: Any, new: Any) -> Any:
        """What a name is to mean that was defined once more."""
        if compared.is_lambda(change.node) and _are_lambdas(old, new):
            return self._redefinitions.redefined(old, new)
        made = self._carried(name, old, new)
        is_bare = _is_bare(change.node) and _is_bare(change.before)
        if is_bare and type(old) is not FunctionType and defined(old, name):
            return old  # somebody has wrapped the function itself
        if made is not old and getattr(old, "__module__", "") == new.__module__:
            for names in self._others:
                for alias in [k for k, v in names.items() if v is old]:
                    names[alias] = made
        return made

    def _carried(self, name: str, old: Any, new: Any) -> Any:
        try:
            return carried(self._redefinitions, name, old, new)
        except PatchRejected as error:
            self.outcome.refused.append(str(error))
        except Exception:  # noqa: BLE001 - what is new works all the same
            _log.exception("The new %s could not be carried over.", name)
            text = f"The new {name} could not be carried into what is there"
            self.outcome.refused.append(text)
        return new

    def _is_in_force(self, change: Change) -> bool:
        """True if new code in the functions that there are is all that it takes."""
        node = change.node
        if not change.last:
            return True
        if isinstance(node, ast.ClassDef):
            return self._is_class_in_force(self._names.get(node.name))
        if not isinstance(node, _FUNCTION):
            return True
        value = self._names.get(node.name)
        function = defined(value, node.name)
        if function is None:  # the module has given the name another meaning
            return not node.decorator_list
        code = function.__code__
        is_new = versions.source_name(code) == self._unit.filename
        is_this = is_new and code.co_firstlineno == trees.first_line(node)
        # Others than functions (caches, compiled code) keep more than the code.
        is_kept = type(value) is FunctionType or not node.decorator_list
        return is_this and is_kept

    def _is_class_in_force(self, value: Any) -> bool:
        if not isinstance(value, type):
            return True
        return not any(
            self._is_old(function)
            for attribute in vars(value).values()
            for function in functions_in(attribute)
        )

    def _is_old(self, function: FunctionType) -> bool:
        unit = cells.unit(versions.source_name(function.__code__))
        return (
            unit is not None and unit.path == self._unit.path and unit is not self._unit
        )


_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def _keep_unchanged(change: Change, old: Any, new: Any) -> None:
    """What a class says as before has the value that it has come to have."""
    node, before = change.node, change.before
    if not isinstance(node, ast.ClassDef) or not isinstance(before, ast.ClassDef):
        return
    if not isinstance(old, type) or not isinstance(new, type):
        return
    if isinstance(old, enum.EnumMeta):
        return
    said = set(map(ast.dump, before.body))
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            for name in compared.names_set(statement):
                if ast.dump(statement) in said and name in vars(old):
                    _keep_attribute(old, new, name)


def _keep_attribute(old: type, new: type, name: str) -> None:
    value = vars(old)[name]
    if not isinstance(value, MemberDescriptorType):
        with contextlib.suppress(TypeError, AttributeError):
            type.__setattr__(new, name, value)


def _is_as_written(change: Change, values: Names) -> bool:
    """True if variables have the value that a literal gave them, and get another."""
    old = compared.literal(change.before)
    if old is None or compared.literal(change.node) is None:
        return False
    return all(type(v) is type(old[0]) and v == old[0] for v in values.values())


def _is_bare(node: ast.stmt | None) -> bool:
    return isinstance(node, _FUNCTION) and not node.decorator_list


def _are_lambdas(*values: Any) -> bool:
    return all(
        type(value) is FunctionType and value.__code__.co_name == "<lambda>"
        for value in values
    )
