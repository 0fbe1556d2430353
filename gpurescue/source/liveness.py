"""What a round of a loop takes over from the round before it.

To run a round again, what it had changed must be as it was at its top. Of the
variables that it assigns only those matter that it may read before it assigns them:
``total`` in ``total += loss``, and not ``loss`` in ``loss = f(x)``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gpurescue.source import tree as trees

_BINDING = ast.MatchAs | ast.MatchStar | ast.MatchMapping | ast.ExceptHandler


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What goes from round to round.

    Attributes:
        names: Variables that are assigned, and may be read before.
        attributes: (variable, attribute) that are assigned, such as ``self.step``.
        containers: Variables, and attributes of variables, that have a method called
            for its effect, or an item assigned: ``losses`` in ``losses.append(x)``,
            ``self.losses`` in ``self.losses.append(x)``.
    """

    names: frozenset[str]
    attributes: frozenset[tuple[str, str]]
    containers: frozenset[str]


def carried(loop: ast.For | ast.AsyncFor) -> Carried:
    """What the body of a loop takes over from round to round."""
    walk = _Walk()
    walk.block(loop.body, walk.targets(loop.target))
    return Carried(
        names=frozenset(walk.read_first & walk.assigned),
        attributes=frozenset(walk.attributes),
        containers=frozenset(walk.containers),
    )


@dataclass(slots=True)
class _Walk:
    read_first: set[str] = field(default_factory=set)
    assigned: set[str] = field(default_factory=set)
    attributes: set[tuple[str, str]] = field(default_factory=set)
    containers: set[str] = field(default_factory=set)

    def block(self, body: Iterable[ast.stmt], known: set[str]) -> set[str]:
        """Names that are assigned for certain when ``body`` has run."""
        for node in body:
            known = self.statement(node, known)
        return known

    def statement(self, node: ast.stmt, known: set[str]) -> set[str]:
        blocks = [body for _, _, body in trees.child_blocks(node)]
        inner = {id(child) for body in blocks for child in body}
        self._reads(node, known, inner)
        certain = known | (self._header_targets(node) if not blocks else set())
        if isinstance(node, trees.Function | ast.ClassDef):
            self.assigned.add(node.name)
            return known | {node.name}
        if isinstance(node, ast.With | ast.AsyncWith):
            certain |= self._header_targets(node)
            return self.block(node.body, certain)
        if not blocks:
            return certain
        if isinstance(node, ast.For | ast.AsyncFor):
            self.targets(node.target)
        ends = [self.block(body, known | self._header_targets(node)) for body in blocks]
        is_whole = isinstance(node, ast.If) and node.orelse
        return set.intersection(*ends) if is_whole else known

    def _header_targets(self, node: ast.stmt) -> set[str]:
        match node:
            case ast.Assign():
                found = [self.targets(target) for target in node.targets]
                return set().union(*found)
            case ast.AugAssign():
                return self.targets(node.target)
            case ast.AnnAssign() if node.value is not None:
                return self.targets(node.target)
            case ast.For() | ast.AsyncFor():
                return self.targets(node.target)
            case ast.With() | ast.AsyncWith():
                held = [i.optional_vars for i in node.items if i.optional_vars]
                return set().union(*map(self.targets, held))
            case ast.Import() | ast.ImportFrom():
                names = {(a.asname or a.name).partition(".")[0] for a in node.names}
                self.assigned |= names
                return names
        return set()

    def targets(self, target: ast.expr) -> set[str]:
        """Names that an assignment to ``target`` gives a value."""
        found: set[str] = set()
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name):
                    self.attributes.add((node.value.id, node.attr))
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                self._changes(node.value)
        self.assigned |= found
        return found

    def _reads(self, node: ast.stmt, known: set[str], inner: set[int]) -> None:
        """Names that a statement's own expressions read, and what they call."""
        for found in _own(node, inner):
            if isinstance(found, ast.NamedExpr):
                self.assigned.add(found.target.id)
            if isinstance(found, _BINDING) and (name := _bound(found)):
                self.assigned.add(name)
            if isinstance(found, ast.Name) and (
                isinstance(found.ctx, ast.Load) or isinstance(node, ast.AugAssign)
            ):
                self.read_first |= {found.id} - known
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute):
                self._changes(function.value)

    def _changes(self, owner: ast.expr) -> None:
        """What ``owner`` holds may be changed in place."""
        if isinstance(owner, ast.Name):
            self.containers.add(owner.id)
        elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            self.containers.add(f"{owner.value.id}.{owner.attr}")


def _bound(node: ast.AST) -> str | None:
    return node.rest if isinstance(node, ast.MatchMapping) else node.name  # type: ignore[attr-defined]


def _own(node: ast.AST, inner: set[int]) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if id(child) not in inner:
            yield from _own(child, inner)
