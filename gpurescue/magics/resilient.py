"""``%%resilient``: run the cell so that a crash leaves it alive."""

from __future__ import annotations

import ast
from typing import Any

from IPython.core.magic import magics_class

from gpurescue.errors import UsageError
from gpurescue.magics.commands import (
    Commands,
    argument,
    arguments,
    cell_magic,
)
from gpurescue.magics.session import Options
from gpurescue.magics.waiting import Waiter

_SET = "value of an argument, see gpurescue.arg"


@magics_class
class ResilientMagics(Commands):
    """Starts runs."""

    @arguments()
    @argument("--park", action="store_true", help="wait for a person in any client")
    @argument("--fresh", action="store_true", help="abandon the parked run, start over")
    @argument("--journal", action="store_true", help="keep what --iteration needs")
    @argument("--budget", type=float, help="percent of time for checkpoints; 0 is none")
    @argument("--set", action="append", default=[], metavar="NAME=VALUE", help=_SET)
    @cell_magic
    def resilient(self, line: str, cell: str) -> None:
        """Run the cell in a thread of its own; when it raises, it is parked alive.

        Then edit the code that failed and type %resume. Running the same cell again
        while its run is parked is taken as an edit of it.
        """
        with self.shown():
            waiter = self._begin(line, cell)
            waiter.wait()
            self.front.settle(waiter.job)

    async def awaited(self, line: str, cell: str) -> None:
        """The same, for a cell that can await."""
        with self.shown():
            waiter = self._begin(line, cell)
            await waiter.wait_async()
            self.front.settle(waiter.job)

    def _begin(self, line: str, cell: str) -> Waiter:
        asked = vars(self.parse(self.resilient, line))
        settings = dict(map(_setting, asked.pop("set")))
        return self.front.begin(cell, Options(settings=settings, **asked))


def _setting(text: str) -> tuple[str, Any]:
    """A name, and a value: a literal of Python, or else a text.

    Raises:
        UsageError: It is not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--set takes NAME=VALUE, and {text!r} is not that.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
