"""Which names statements read, and which they set."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from gpurescue.hindsight.added import SCOPES, blocks, header


def free(nodes: Sequence[ast.stmt], known: frozenset[str] = frozenset()) -> set[str]:
    """Names that statements read, and did not set themselves before.

    Args:
        nodes: The statements.
        known: Names that were set before.
    """
    found: set[str] = set()
    for node in nodes:
        parts = list(blocks(node))
        inside = known | targets(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = inside.union(parameters(node), *map(bound, node.body))
        found |= _reads(node if not parts else ast.parse(header(node))) - inside
        for _, _, block in parts:
            found |= free(block, inside)
        known = known | bound(node)
    return found


def _reads(node: ast.AST) -> set[str]:
    """Names that are read, but for those of comprehensions and lambdas."""
    found = {
        inner.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
    }
    return found - _inner(node)


def _inner(node: ast.AST) -> set[str]:
    """Names that live inside of comprehensions, lambdas and functions only."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.comprehension):
            found |= {n.id for n in ast.walk(inner.target) if isinstance(n, ast.Name)}
        elif isinstance(inner, ast.arg):
            found.add(inner.arg)
    return found


def bound(node: ast.stmt) -> set[str]:
    """Names that a statement sets, in its blocks too."""
    found: set[str] = set()
    waiting: list[Any] = [node]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            found.add(inner.id)
        elif isinstance(inner, SCOPES):
            found.add(inner.name)
            continue
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            found |= {(x.asname or x.name).partition(".")[0] for x in inner.names}
        elif isinstance(inner, ast.ExceptHandler) and inner.name:
            found.add(inner.name)
        elif isinstance(inner, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp):
            continue
        waiting += ast.iter_child_nodes(inner)
    return found


def parameters(scope: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names of the parameters of a function."""
    return {inner.arg for inner in ast.walk(scope.args) if isinstance(inner, ast.arg)}


def targets(node: ast.stmt) -> set[str]:
    """Names that a compound statement sets by itself."""
    fields: list[Any] = [getattr(node, "target", None), getattr(node, "test", None)]
    fields += [item.optional_vars for item in getattr(node, "items", ())]
    fields += [case.pattern for case in getattr(node, "cases", ())]
    found: set[str] = set()
    for part in filter(None, fields):
        for inner in ast.walk(part):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                found.add(inner.id)
            elif isinstance(inner, ast.MatchAs | ast.MatchStar) and inner.name:
                found.add(inner.name)
    return found | {h.name for h in getattr(node, "handlers", ()) if h.name}
