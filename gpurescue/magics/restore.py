"""``%restore``: bring a run back that its kernel has taken with it."""

from __future__ import annotations

from IPython.core.magic import magics_class

from gpurescue.magics import kept, restoring
from gpurescue.magics.commands import Commands, argument, arguments, line_magic
from gpurescue.magics.session import Options
from gpurescue.magics.waiting import Waiter


@magics_class
class RestoreMagics(Commands):
    """Goes on with runs of kernels that are gone."""

    @arguments()
    @argument("checkpoint", nargs="?", default=kept.NEWEST, help="an id; else newest")
    @argument("--trust", action="store_true", help="sign what is somebody else's")
    @argument("--force", action="store_true", help="although versions or files differ")
    @argument("--look", action="store_true", help="bring the variables only")
    @argument("--budget", type=float, help="percent of time for checkpoints; 0 is none")
    @argument("--park", action="store_true", help="wait for a person in any client")
    @line_magic
    def restore(self, line: str) -> None:
        """Bring a run back from its newest checkpoint, and go on in its loop.

        No cell has to be run again before; what a cell has defined before counts as an
        edit of the run.
        """
        with self.shown():
            waiter = self._begin(line)
            if waiter is not None:
                waiter.wait()
                self.front.settle(waiter.job)

    async def awaited(self, line: str) -> None:
        """The same, for a cell that can await."""
        with self.shown():
            waiter = self._begin(line)
            if waiter is not None:
                await waiter.wait_async()
                self.front.settle(waiter.job)

    def _begin(self, line: str) -> Waiter | None:
        asked = self.parse(self.restore, line)
        if asked.look:
            restoring.look(self.front, asked.checkpoint)
            return None
        options = Options(park=asked.park, budget=asked.budget)
        return restoring.go_on(
            self.front, asked.checkpoint, options, force=asked.force, trust=asked.trust
        )
