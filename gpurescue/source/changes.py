"""What an edit of a module's file has changed, statement by statement.

A module is not run again when it is edited: what it has made is in use. Functions are
exchanged in place, wherever they are; definitions and imports that say something else
than before are run; of the rest it is said that it was not run again.
"""

from __future__ import annotations

import ast
import enum
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpurescue.source import tree as trees

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_IMPORTS = (ast.Import, ast.ImportFrom)
_TYPE_ALIAS = getattr(ast, "TypeAlias", ())  # PEP 695, new in CPython 3.12
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
_BLOCKS = (ast.If, ast.Try)


class Kind(enum.Enum):
    """What is to be done about a statement that is new or says something else."""

    BODIES = "only bodies of functions differ"
    DEFINES = "it defines or imports something"
    ASSIGNS = "it gives a variable of the module a value"
    OTHER = "it does something else"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A statement of a module that is new, or says something else than before.

    Attributes:
        kind: What is to be done about it.
        index: Which statement of the module it is.
        node: The statement.
        names: The variables of the module that it sets.
        last: Those of them that no later statement sets.
        wrapped: Those that only this statement defines, and a later one wraps.
        before: The statement that set them before, if there is one.
    """

    kind: Kind
    index: int
    node: ast.stmt
    names: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    wrapped: tuple[str, ...] = ()
    before: ast.stmt | None = None


def changes(old: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> list[Change]:
    """Compare the statements of two versions of a module.

    Args:
        old: Statements that are in force.
        new: Statements as edited.
    """
    unchanged = Counter(map(ast.dump, old))
    known = _Known(old, new)
    found: list[Change] = []
    for index, node in enumerate(new):
        text = ast.dump(node)
        if unchanged[text] and known.has_same_role(node):
            unchanged[text] -= 1
        elif not _says_nothing(node):
            found.append(known.change(index, node))
    return found


class _Known:
    """The statements of both versions, by what they set: the last one counts."""

    def __init__(self, old: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> None:
        self._outlines = Counter(map(outline, old))
        self._old = {name: node for node in old for name in names_set(node)}
        self._new = {name: node for node in new for name in names_set(node)}
        self._defined = Counter(n.name for n in new if isinstance(n, _Definition))

    def has_same_role(self, node: ast.stmt) -> bool:
        """Tell whether an unchanged statement gives the same names their meaning."""
        text = ast.dump(node)
        known = [self._old.get(name) for name in self._last(node)]
        return all(n is not None and ast.dump(n) == text for n in known)

    def _last(self, node: ast.stmt) -> tuple[str, ...]:
        names = dict.fromkeys(names_set(node))
        return tuple(name for name in names if self._new[name] is node)

    def change(self, index: int, node: ast.stmt) -> Change:
        """What is to be done about a statement."""
        names, last = tuple(dict.fromkeys(names_set(node))), self._last(node)
        wrapped = tuple(n for n in names if n not in last and self._defined[n] == 1)
        return Change(
            kind=self._kind(node),
            index=index,
            node=node,
            names=names,
            last=last,
            wrapped=wrapped if isinstance(node, _Definition) else (),
            before=next((self._old[n] for n in names if n in self._old), None),
        )

    def _kind(self, node: ast.stmt) -> Kind:
        if self._has_same_outline(node):
            return Kind.BODIES
        if isinstance(node, _ASSIGNMENTS) and _sets_names(node):
            return Kind.ASSIGNS
        return Kind.DEFINES if _only_defines(node) else Kind.OTHER

    def _has_same_outline(self, node: ast.stmt) -> bool:
        text = outline(node)
        if isinstance(node, _ASSIGNMENTS) or not self._outlines[text]:
            return False
        known = [self._old.get(name) for name in self._last(node)]
        return all(n is not None and outline(n) == text for n in known)


class _Outline(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = []
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.body = []
        return node


def outline(node: ast.stmt) -> str:
    """A statement without the bodies of the functions in it."""
    return ast.dump(_Outline().visit(trees.copied(node)))


def names_set(node: ast.stmt) -> Iterator[str]:
    """The variables of a module that a statement of it sets."""
    if isinstance(node, _Definition):
        yield node.name
    elif isinstance(node, _IMPORTS):
        yield from (a.asname or a.name.partition(".")[0] for a in node.names)
    elif isinstance(node, _ASSIGNMENTS):
        yield from (t.id for t in _targets(node) if isinstance(t, ast.Name))
    elif isinstance(node, _TYPE_ALIAS):
        yield node.name.id
    for _, _, body in trees.child_blocks(node):
        for inner in body:
            yield from names_set(inner)


def literal(node: ast.stmt | None) -> tuple[object] | None:
    """The value of an assignment of a literal, in a tuple; None if it is none."""
    value = node.value if isinstance(node, _ASSIGNMENTS) else None
    if value is None:
        return None
    try:
        return (ast.literal_eval(value),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def is_lambda(node: ast.stmt) -> bool:
    """Tell whether a statement only gives a lambda a name."""
    return isinstance(node, _ASSIGNMENTS) and isinstance(node.value, ast.Lambda)


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    found: list[ast.expr] = []
    waiting = list(node.targets if isinstance(node, ast.Assign) else [node.target])
    while waiting:
        target = waiting.pop(0)
        if isinstance(target, ast.Tuple | ast.List):
            waiting = [*target.elts, *waiting]
        else:
            found.append(target)
    return found


def _sets_names(node: ast.Assign | ast.AnnAssign) -> bool:
    return all(isinstance(target, ast.Name) for target in _targets(node))


def _only_defines(node: ast.stmt) -> bool:
    """True if running the statement can do nothing but give names a meaning."""
    if isinstance(node, _BLOCKS):
        inner = [n for _, _, body in trees.child_blocks(node) for n in body]
        return all(map(_only_defines, inner))
    if isinstance(node, (_Definition, *_IMPORTS, ast.Pass)):
        return True
    if _TYPE_ALIAS and isinstance(node, _TYPE_ALIAS):
        return True
    is_plain = isinstance(node, _ASSIGNMENTS) and _sets_names(node)
    return is_plain and literal(node) is not None


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, and what only runs when the file is run as a script."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
        return ast.unparse(node.test) in _MAIN
    return isinstance(node, ast.AnnAssign) and node.value is None


_MAIN = {"__name__ == '__main__'", "'__main__' == __name__"}
