"""Units of user source: a cell, or a module file, with its tree and its functions.

A unit is found again from a running frame by the name of its source alone, through
``linecache``, where IPython keeps every cell. So guarded code needs no registry and
survives pickling, copying and forking. A cell's source has the name of its file; each
version of a module's file has a name of its own (``versions``).
"""

from __future__ import annotations

import ast
import hashlib
import io
import linecache
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType

from gpurescue.source import operands, transform, versions
from gpurescue.source import tree as trees
from gpurescue.source.quiet import compiled, quietly
from gpurescue.source.tree import Function, Layout, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One function (or a cell's body) in one version of its source."""

    unit: Unit
    scope: Scope
    layout: Layout
    qualname: str
    class_name: str | None

    @property
    def key(self) -> tuple[str, int]:
        """What stays the same for all code made from this definition."""
        return self.unit.filename, self.line

    @property
    def line(self) -> int:
        """First line of the function; 0 for a cell's body."""
        return first_line_of(self.scope)

    @property
    def name(self) -> str:
        """The function's own name; ``<module>`` for a cell's body."""
        return self.qualname.rpartition(".")[2]

    @property
    def source(self) -> str:
        """The user's text of the function, dedented by nothing."""
        if isinstance(self.scope, ast.Module):
            return self.unit.source
        lines = self.unit.source.split("\n")
        return "\n".join(lines[self.line - 1 : self.scope.end_lineno])


@dataclass(slots=True)
class Unit:
    """One source.

    Attributes:
        filename: The name under which ``linecache`` has it.
        path: The file name of its code: that of all versions, if it is a module's.
    """

    filename: str
    source: str
    tree: ast.Module
    definitions: dict[int, Definition]
    path: str
    _codes: dict[tuple[str, int], CodeType] | None = None
    _rebound: frozenset[str] | None = None

    @property
    def rebound(self) -> frozenset[str]:
        """Names that functions in it bind and that are not their own."""
        if self._rebound is None:
            self._rebound = operands.rebound(self.tree)
        return self._rebound

    @property
    def is_file(self) -> bool:
        """True for a version of a module's file."""
        return self.path != self.filename

    def plain_code(self, definition: Definition) -> CodeType | None:
        """The code that a definition has without guards: names its variables."""
        if self._codes is None:
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            plain = compiled(self.tree, self.path, flags)
            self._codes = transform.functions_of(plain)
        return self._codes.get((definition.name, definition.line))

    def line(self, number: int) -> str:
        """Text of one line (from 1), or an empty one."""
        lines = self.source.split("\n")
        return lines[number - 1] if 0 < number <= len(lines) else ""


_OF_VERSION = re.compile(r" \(version \d+, [0-9a-f]{6}\)\Z")

_units: dict[str, Unit] = {}
_versions: dict[str, list[Unit]] = {}


def parse(source: str, filename: str, path: str | None = None) -> Unit:
    """Parse a unit.

    Raises:
        SyntaxError: As ``compile`` would, for the user's text.
    """
    path = path or filename
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    with quietly():
        tree = compile(source, path, "exec", flags, dont_inherit=True)
    trees.normalise(tree)
    unit = Unit(filename, source, tree, {}, path)
    _define(unit, tree, "", None)
    return unit


def version(source: str, path: str) -> Unit:
    """The unit of one version of a module's file; the same for the same source.

    Raises:
        SyntaxError: As ``compile`` would.
    """
    known = _versions.setdefault(path, [])
    for found in known:
        if found.source == source:
            return found
    # With a part of its digest: another process may have another first version.
    digest = hashlib.sha256(source.encode()).hexdigest()[:6]
    return _kept_version(source, f"{path} (version {len(known) + 1}, {digest})", path)


def _kept_version(source: str, name: str, path: str) -> Unit:
    made = parse(source, name, path)
    _remember(name, source)
    _versions.setdefault(path, []).append(made)
    _units[name] = made
    return made


def _remember(name: str, source: str) -> None:
    lines = io.StringIO(source).readlines()
    linecache.cache[name] = (len(source), None, lines, name)


def path_of(name: str) -> str | None:
    """The file that a source is a version of; None of a cell's."""
    path = _OF_VERSION.sub("", name)
    return path if path != name else None


def adopt(name: str, source: str) -> None:
    """Have a source of another process, for code that was made from it there.

    One of that name that is here already stays.

    Args:
        name: Of a cell's source, or of a version of a module's file.
        source: Its text.

    Raises:
        SyntaxError: As ``compile`` would.
    """
    if unit(name) is not None:
        return
    path = path_of(name)
    if path is not None:
        _kept_version(source, name, path)
    else:
        _remember(name, source)


def unit(filename: str) -> Unit | None:
    """The unit under a name, as ``linecache`` has it now; None if it has not."""
    known = _units.get(filename)
    if known is not None and known.is_file:
        return known  # it never changes
    source = "".join(linecache.getlines(filename))
    if known is not None and known.source == source:
        return known
    if not source:
        return None
    try:
        found = parse(source, filename)
    except SyntaxError:
        return None
    _units[filename] = found
    return found


def definition(code: CodeType) -> Definition | None:
    """The definition that ``code`` was compiled from; None if its source is gone."""
    found = unit(versions.source_name(code))
    if found is None:
        return None
    line = 0 if code.co_name == "<module>" else code.co_firstlineno
    match = found.definitions.get(line)
    if match is None or match.name != code.co_name:
        return None
    return match


def _define(owner: Unit, scope: Scope, prefix: str, class_name: str | None) -> None:
    is_module = isinstance(scope, ast.Module)
    qualname = "<module>" if is_module else prefix + scope.name  # type: ignore[union-attr]
    made = Definition(
        unit=owner,
        scope=scope,
        layout=trees.annotate(scope),
        qualname=qualname,
        class_name=class_name,
    )
    owner.definitions[made.line] = made
    inner = "" if is_module else f"{qualname}.<locals>."
    _define_inside(owner, scope, inner, class_name)


def _define_inside(
    owner: Unit, node: ast.AST, prefix: str, class_name: str | None
) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            _define(owner, child, prefix, class_name)
        elif isinstance(child, ast.ClassDef):
            _define_inside(owner, child, f"{prefix}{child.name}.", child.name)
        else:
            _define_inside(owner, child, prefix, class_name)


def compile_unit(
    tree: ast.Module, filename: str, *, flags: int = 0, guard_body: bool = False
) -> CodeType:
    """Compile a parsed tree with guards in it; ``tree`` is used up.

    Args:
        tree: The user's tree, as parsed.
        filename: The name under which ``linecache`` has the source.
        flags: Compiler flags in force, ``__future__`` ones included.
        guard_body: True for the body of a ``%%resilient`` cell.
    """
    guarded = guard(tree, filename, flags=flags, guard_body=guard_body)
    code: CodeType = compile(guarded, filename, "exec", flags, dont_inherit=True)
    return code


def compile_version(unit: Unit, nodes: Sequence[int] | None = None) -> CodeType:
    """Compile a version of a module's file with guards in it, or some statements of it.

    Args:
        unit: The version.
        nodes: Indices of the statements; all by default.

    Raises:
        SyntaxError: As ``compile`` would.
    """
    flags = ast.PyCF_ONLY_AST
    with quietly():
        tree = compile(unit.source, unit.path, "exec", flags, dont_inherit=True)
        if nodes is not None:
            futures = [node for node in tree.body if transform.is_future(node)]
            tree.body = [*futures, *(tree.body[i] for i in nodes)]
        return versions.marked(compile_unit(tree, unit.path), unit.filename)


def guard(
    tree: ast.Module, filename: str, *, flags: int = 0, guard_body: bool = False
) -> ast.Module:
    """Put guards into a parsed tree, which is used up."""
    with quietly():
        return _guarded(tree, filename, flags, guard_body=guard_body)


def _guarded(
    tree: ast.Module, filename: str, flags: int, *, guard_body: bool
) -> ast.Module:
    allow = flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    plain = compile(tree, filename, "exec", allow, dont_inherit=True)
    variables = transform.functions_of(plain)
    trees.normalise(tree)

    def guarded(skipped: frozenset[int]) -> ast.Module:
        made = transform.guard_module(
            trees.copied(tree), variables, body=guard_body, skipped=skipped
        )
        compile(made, filename, "exec", allow, dont_inherit=True)
        return made

    try:
        return guarded(frozenset())
    except SyntaxError:
        return guarded(_too_deep(tree, guarded))


def _too_deep(
    tree: ast.Module, guarded: Callable[[frozenset[int]], ast.Module]
) -> frozenset[int]:
    """First lines of the functions that guards would nest too deeply.

    CPython allows 20 blocks in each other, and guards are blocks, too. Such a function
    is left as it is: a crash in it suspends its caller.
    """
    lines = {0, *(first_line_of(scope) for scope in trees.scopes(tree))}
    found: set[int] = set()
    for line in lines:
        try:
            guarded(frozenset(lines - {line}))
        except SyntaxError:
            found.add(line)
    return frozenset(found)


def first_line_of(scope: Scope) -> int:
    """First line of a function; 0 for a cell's body."""
    return 0 if isinstance(scope, ast.Module) else trees.first_line(scope)
