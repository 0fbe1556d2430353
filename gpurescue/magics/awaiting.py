"""Cells that wait for a run are rewritten to ``await``, where that is possible.

A cell that awaits leaves the kernel's loop free: widgets answer, Interrupt works.
Magics that run a cell themselves (``%%time``, ``%%timeit``, ``%%capture``) cannot
await; under them, and in a terminal, the plain blocking magic runs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gpurescue.magics.shell import Shell


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """The call that IPython makes of a magic, and what it is changed to."""

    call: str
    awaited: str


REWRITINGS = (
    Rewriting(
        call="get_ipython().run_cell_magic('resilient', ",
        awaited="ResilientMagics",
    ),
    Rewriting(call="get_ipython().run_cell_magic('resume', ", awaited="ResumeMagics"),
    Rewriting(call="get_ipython().run_line_magic('resume', ", awaited="ResumeMagics"),
    Rewriting(call="get_ipython().run_line_magic('restore', ", awaited="RestoreMagics"),
)
_REGISTRY = "await get_ipython().magics_manager.registry['{}'].awaited("


class AwaitMagics:
    """An entry of IPython's ``input_transformers_post``."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def __call__(self, lines: list[str]) -> list[str]:
        """The lines of a transformed cell, awaiting where they would block."""
        if not any(r.call in line for r in REWRITINGS for line in lines):
            return lines
        if not self._can_await(sys._getframe(1).f_back):
            return lines
        return list(self._rewritten(lines))

    def _can_await(self, caller: object) -> bool:
        """True where the kernel itself is about to run the cell.

        That is the only caller of ``transform_cell`` that awaits the result while a
        loop is running.
        """
        code = getattr(caller, "f_code", None)
        is_kernel = self._shell.is_kernel and self._shell.ip.autoawait
        return bool(is_kernel and code is not None and code.co_name == "do_execute")

    def _rewritten(self, lines: list[str]) -> Iterator[str]:
        starts = set(_statements("".join(lines)))
        for number, line in enumerate(lines, 1):
            for rewriting in REWRITINGS:
                indent = len(line) - len(line.lstrip(" \t"))
                begins = line.startswith(rewriting.call, indent)
                if begins and (number, indent) in starts:
                    rest = line[indent + len(rewriting.call) :]
                    awaited = _REGISTRY.format(rewriting.awaited)
                    line = line[:indent] + awaited + rest
            yield line


def _statements(source: str) -> Iterator[tuple[int, int]]:
    """Where calls stand as statements of the cell itself, not in a function."""
    try:
        waiting: list[ast.AST] = [ast.parse(source)]
    except SyntaxError:
        return
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node.lineno, node.col_offset
        if not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr
        ):
            waiting += ast.iter_child_nodes(node)
