"""The syntax-tree transformer that puts guards into the functions of every cell."""

from __future__ import annotations

import ast
import copy
import logging
from collections.abc import Callable

from gpurescue.magics import redefining
from gpurescue.magics.session import Session
from gpurescue.source import cells
from gpurescue.source import tree as trees

_log = logging.getLogger(__name__)
_WATCHED = (*trees.Function.__args__, ast.ClassDef)


class CellGuard:
    """An entry of IPython's ``ast_transformers``.

    IPython throws a transformer out when it raises, so this one never does: whatever
    goes wrong here, the cell runs as the user wrote it.

    Args:
        flags: Gives the compiler flags in force.
        session: Knows whether a run is alive, so that definitions are edits.
    """

    def __init__(self, flags: Callable[[], int], session: Session) -> None:
        self._flags = flags
        self._session = session

    def visit(self, tree: ast.AST) -> ast.AST:
        """The tree with guards, or the tree itself."""
        try:
            return self._guarded(tree)
        except SyntaxError:
            return tree  # the user's own: the shell is about to show it
        except Exception:  # noqa: BLE001 - IPython would throw us out
            _log.exception("The cell runs without guards.")
            return tree

    def _guarded(self, tree: ast.AST) -> ast.AST:
        if not isinstance(tree, ast.Module):
            return tree
        self._session.note_cell(tree)
        if not any(isinstance(node, _WATCHED) for node in ast.walk(tree)):
            return tree
        made = cells.guard(copy.deepcopy(tree), "<cell>", flags=self._flags())
        if self._session.alive is not None:
            redefining.mark(made)
        return made
