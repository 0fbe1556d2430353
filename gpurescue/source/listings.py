"""Leaves our names out of ``locals()``, ``vars()`` and ``dir()`` of a function.

The call itself stays where it was; what it gives is looked at only if it is what the
builtin gives, and not something of the user's with the same name.
"""

from __future__ import annotations

import ast

from gpurescue.source import hidden
from gpurescue.source import tree as trees
from gpurescue.source.tree import Function, Scope


def leave_ours_out(scope: Scope) -> None:
    """Have the calls of a function's own statements give the user's names only."""
    _Listings(scope).visit(scope)


class _Listings(ast.NodeTransformer):
    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        is_bare = not node.args and not node.keywords
        if not (is_bare and isinstance(node.func, ast.Name)):
            return node
        text = _LISTINGS.get(node.func.id)
        if text is None:
            return node
        made = hidden.expression(text, at=node)
        assert isinstance(made, ast.Call)
        made.args = [node]
        return made

    def generic_visit(self, node: ast.AST) -> ast.AST:
        nested = Function | ast.ClassDef | ast.Lambda
        if isinstance(node, nested) and node is not self.scope:
            return node
        return super().generic_visit(node)


_OURS = f"__gr_n[:{len(trees.HIDDEN)}] == {trees.HIDDEN!r}"
_NAMES = (
    f"(lambda __gr_d: {{__gr_n: __gr_v for __gr_n, __gr_v in __gr_d.items() "
    f"if not ({_OURS})}} if __gr_d.__class__ is {{}}.__class__ else __gr_d)(_)"
)
_LISTINGS = {
    "locals": _NAMES,
    "vars": _NAMES,
    "dir": f"(lambda __gr_d: [__gr_n for __gr_n in __gr_d if not ({_OURS})] "
    "if __gr_d.__class__ is [].__class__ else __gr_d)(_)",
}
