"""Edits that change the text of a program and not what it does."""

from __future__ import annotations

import ast
import random

Span = tuple[int, int, int, int]

WHOLE = (0, 0, 0, 0)
_HARMLESS = ("added = 1; del added", "pass", "len('added')", "if False: added = 2")


class _Adder(ast.NodeTransformer):
    """Puts harmless statements between others.

    Where a block has failed, what lies before the failing statement has run already:
    an edit in there is run, and all that follows it, too. So nothing is put there.
    """

    def __init__(self, seed: int, failing: Span | None, only: Span | None) -> None:
        self.seed = seed
        self.failing = failing
        self.only = only
        self.share = (0.0, 0.1, 0.4)[seed % 3]
        self.is_meant = only is None or only == WHOLE

    def visit_FunctionDef(self, node: ast.AST) -> ast.AST:
        before = self.is_meant
        self.is_meant = self.only is None or span(node) == self.only
        self.generic_visit(node)
        self.is_meant = before
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.stmt):
                self.visit(child)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                setattr(node, name, self._with_more(block))
        return node

    def _with_more(self, block: list[ast.stmt]) -> list[ast.stmt]:
        first = self._first_place(block)
        found = block[:first]
        for node in block[first:]:
            found += self._harmless(node, "before")
            found.append(self.visit(node))
        return found + self._harmless(block[-1], "behind")

    def _first_place(self, block: list[ast.stmt]) -> int:
        declared = sum(isinstance(n, ast.Global | ast.Nonlocal) for n in block)
        # Each target of a del is a statement of its own, and some of them are done.
        failed = [
            i + isinstance(n, ast.Delete) for i, n in enumerate(block) if self._holds(n)
        ]
        return max([declared, *failed])

    def _holds(self, node: ast.stmt) -> bool:
        if self.failing is None:
            return False
        first, last = span(node)[:2], span(node)[2:]
        if isinstance(node, ast.Delete):
            return first <= self.failing[:2] and self.failing[2:] <= last
        return span(node) == self.failing

    def _harmless(self, node: ast.stmt, where: str) -> list[ast.stmt]:
        # By what the statement says: so it stays if others are taken away.
        rng = random.Random(f"{self.seed} {where} {ast.dump(node)}")
        if not self.is_meant or rng.random() >= self.share:
            return []
        return ast.parse(rng.choice(_HARMLESS)).body


def span(node: ast.AST) -> Span:
    """Where a statement is, its decorators included."""
    first = getattr(node, "decorator_list", None) or [node]
    return (
        first[0].lineno, first[0].col_offset, node.end_lineno or 0,
        node.end_col_offset or 0,
    )  # fmt: skip


def added(
    source: str, seed: int, failing: Span | None = None, only: Span | None = None
) -> str:
    """``source`` with harmless statements in it, and all lines moved.

    Args:
        source: A cell.
        seed: Says where, and which.
        failing: Where the failing statement is, if it is in this cell.
        only: The only function to add something to; ``WHOLE`` for the cell's body.
    """
    tree = _Adder(seed, failing, only).visit(ast.parse(source))
    text = ast.unparse(ast.fix_missing_locations(tree))
    lines = ["# edited"] * (seed % 4)
    for i, line in enumerate(text.splitlines()):
        if (i + seed) % 5 == 0:
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"
