"""Which variables statements mention and change."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from gpurescue.source import tree as trees


def mentioned(node: ast.AST) -> set[str]:
    """Every name that ``node`` mentions."""
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def changed(nodes: Iterable[ast.stmt]) -> set[str]:
    """Names that statements assign, or whose objects they may change in place.

    A name is changed by being a target, or a target's owner (``x[0] = 1``), or by a
    method called on it for its effect alone (``x.clamp_(0, 9)``). What functions do
    that are only defined here does not count.
    """
    found: set[str] = set()
    for top in nodes:
        for node in _running(top):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                found |= _owner(node.value.func)
            elif isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
                found |= _owner(node)
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` and what is in it, without the insides of functions and classes."""
    yield node
    if not isinstance(node, trees.Function | ast.ClassDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _running(child)


def _owner(node: ast.AST) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()
