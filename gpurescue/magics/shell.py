"""What the front needs of IPython and of its kernel, in one place.

All that differs between kernel versions, and between a kernel and a terminal, is
here. The facts behind it were measured on ipykernel 6.31, 7.3 and 7.4.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Container
from contextvars import ContextVar
from typing import Any

from IPython.core.error import UsageError as ShellUsageError
from IPython.core.interactiveshell import InteractiveShell

from gpurescue.magics.scripts import Text

__all__ = ["Shell", "ShellUsageError"]

_SESSION = "JPY_SESSION_NAME"  # Jupyter Server: the path of the notebook


class Shell:
    """One IPython shell."""

    def __init__(self, ip: InteractiveShell) -> None:
        self.ip = ip
        self._raw_cell = ""

    @property
    def is_kernel(self) -> bool:
        """True in a notebook, false in a terminal."""
        return hasattr(self.ip, "kernel")

    @property
    def names(self) -> dict[str, Any]:
        """The user's namespace."""
        found: dict[str, Any] = self.ip.user_ns
        return found

    @property
    def hidden(self) -> Container[str]:
        """Names in the namespace that are the shell's own."""
        found: dict[str, Any] = self.ip.user_ns_hidden
        return found

    @property
    def flags(self) -> int:
        """Compiler flags in force, ``__future__`` ones of earlier cells included."""
        return int(self.ip.compile.flags)

    @property
    def interactivity(self) -> str:
        """Which expressions of a cell are displayed."""
        return str(self.ip.ast_node_interactivity)

    def note_cell(self, raw_cell: str) -> None:
        """A cell is about to run."""
        self._raw_cell = raw_cell

    # -- the running cell --------------------------------------------------------

    def _request(self) -> dict[str, Any]:
        get_parent = getattr(self.ip, "get_parent", None)
        found: dict[str, Any] | None = get_parent() if get_parent else None
        return found or {}

    def raw_cell(self) -> str:
        """The text of the running cell, magics and all."""
        content = self._request().get("content", {})
        return str(content.get("code", self._raw_cell))

    def cell(self) -> tuple[str, str] | None:
        """What stays the same when the cell is edited and run again."""
        request = self._request()
        cell_id = request.get("metadata", {}).get("cellId")
        session = request.get("header", {}).get("session", "")
        return (str(session), str(cell_id)) if cell_id else None

    def can_ask(self) -> bool:
        """Tell whether there is a person who can answer.

        Clients that run notebooks by themselves (nbclient, papermill, ``jupyter
        execute``) do not allow standard input; a script has no terminal.
        """
        if self.is_kernel:
            return bool(self._request().get("content", {}).get("allow_stdin", False))
        return sys.stdin is not None and sys.stdin.isatty()

    def keep(self, body: str) -> Text:
        """Turn the body of the running cell into Python, and keep it for tracebacks.

        The file name is that of the *raw* cell, and the lines are those of the raw
        cell: so the debugger's breakpoints in it are found.
        """
        raw = self.raw_cell()
        above = lines_above(raw, body)
        python = str(_untyped(self.ip).transform_cell(body))
        source = "\n" * (above + num_blank(body)) + python
        known: dict[str, int] = getattr(self.ip.compile, "_filename_map", {})
        named = self.ip.compile.get_code_name(raw, "", 0)
        number = known.get(named, next(reversed(known.values()), 0))
        filename = self.ip.compile.cache(
            source, number, raw_code=raw if above else source
        )
        return Text(written=body, source=source, filename=filename, cell=self.cell())

    def transform(self, tree: ast.Module) -> ast.Module:
        """What IPython does to the tree of a plain cell, our guards included."""
        made = _untyped(self.ip).transform_ast(tree)
        assert isinstance(made, ast.Module)
        return made

    def folders(self) -> list[str]:
        """Where the notebook is: its folder, if a front end names it, and ours."""
        found = [os.path.dirname(path) for path in self._named()]
        return [os.getcwd(), *(folder for folder in found if os.path.isabs(folder))]

    @property
    def notebook(self) -> str:
        """The notebook's name; empty if no front end says it."""
        return next((os.path.basename(path) for path in self._named()), "")

    def _named(self) -> list[str]:
        """Paths of the notebook, as front ends name it."""
        named = [self.names.get("__vsc_ipynb_file__"), os.environ.get(_SESSION)]
        return [str(name) for name in named if name]

    def files(self) -> list[str]:
        """The file names of all cells, oldest first."""
        return list(getattr(self.ip.compile, "_filename_map", {}))

    def label(self, filename: str) -> str:
        """What a traceback calls a file: ``Cell In[4]``."""
        found = self.ip.compile.format_code_name(filename)
        return " ".join(found) if found else filename

    # -- output --------------------------------------------------------------------

    def output(self) -> Callable[[], None]:
        """Whose output this is; the result says the same in another thread.

        A kernel keeps it in context variables, each message kind its own.
        """
        held = [(v, v.get(None)) for v in _output_variables(self.ip)]
        found = [(v, value) for v, value in held if value is not None]

        def bind() -> None:
            for variable, value in found:
                variable.set(value)

        return bind

    def show(
        self, html: str, text: str, *, name: str | None = None, again: bool = False
    ) -> None:
        """Display something in the running cell.

        Args:
            html: For a notebook.
            text: For a terminal.
            name: A name to change it by later.
            again: True to change what was displayed under ``name``.
        """
        if not self.is_kernel:
            self.say(text)
            return
        self.ip.display_pub.publish(
            {"text/html": html, "text/plain": text},
            transient={"display_id": name} if name else {},
            update=again,
        )

    def say(self, line: str) -> None:
        """Print a line for the user."""
        self.write(line + "\n")

    def write(self, text: str) -> None:
        """Print text as it is.

        A kernel sends it soon by itself; waiting for that would take 2 ms.
        """
        sys.stdout.write(text)
        if not self.is_kernel:
            sys.stdout.flush()

    def display(self, value: Any) -> None:
        """Display the value of a cell's last expression."""
        if value is not None:
            sys.displayhook(value)

    def offer(self, source: str) -> None:
        """Put source where the user can edit it: a new cell below this one."""
        if self.is_kernel:
            self.ip.set_next_input(source, replace=False)
        else:
            self.say(source)


def _untyped(ip: InteractiveShell) -> Any:
    return ip


def _output_variables(ip: InteractiveShell) -> list[ContextVar[Any]]:
    kernel = getattr(ip, "kernel", None)
    owners = [
        (owner, "_parent_header")
        for owner in (sys.stdout, sys.stderr, ip, ip.display_pub, ip.displayhook)
    ]
    owners += [(kernel, "_shell_parent"), (kernel, "_shell_parent_ident")]
    found = [getattr(owner, name, None) for owner, name in owners]
    return [variable for variable in found if isinstance(variable, ContextVar)]


def lines_above(raw: str, body: str) -> int:
    """How many lines of the raw cell stand above its body; 0 if it is not in it."""
    if not raw.endswith("\n"):
        raw += "\n"
    above = raw.count("\n") - body.count("\n")
    if above < 1:
        return 0
    heading = raw.splitlines()[above - 1].strip()
    return above if heading.startswith("%%") else 0


def num_blank(body: str) -> int:
    """How many blank lines a body begins with: IPython drops them."""
    count = 0
    for line in body.splitlines():
        if line.strip():
            break
        count += 1
    return count
