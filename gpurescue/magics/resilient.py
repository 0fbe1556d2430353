"""``%%resilient``: run the cell so that a crash leaves it alive."""

from __future__ import annotations

from IPython.core.magic import magics_class

from gpurescue.magics.commands import (
    Commands,
    argument,
    arguments,
    cell_magic,
)
from gpurescue.magics.session import Options
from gpurescue.magics.waiting import Waiter


@magics_class
class ResilientMagics(Commands):
    """Starts runs."""

    @arguments()
    @argument("--park", action="store_true", help="wait for a person in any client")
    @argument("--fresh", action="store_true", help="abandon the parked run, start over")
    @argument("--journal", action="store_true", help="keep what --iteration needs")
    @argument("--budget", type=float, help="percent of time for checkpoints; 0 is none")
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
        asked = self.parse(self.resilient, line)
        return self.front.begin(cell, Options(**vars(asked)))
