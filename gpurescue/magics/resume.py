"""``%resume`` and ``%%resume``: go on."""

from __future__ import annotations

import argparse

from IPython.core.magic import magics_class

from gpurescue.errors import UsageError
from gpurescue.magics import looking
from gpurescue.magics.commands import (
    Commands,
    argument,
    arguments,
    line_cell_magic,
)
from gpurescue.magics.waiting import Waiter
from gpurescue.recovery.plan import Action, Restart


@magics_class
class ResumeMagics(Commands):
    """Goes on with the parked run."""

    @arguments()
    @argument("--at", type=int, metavar="LINE", help="go on at this line")
    @argument("--frame", type=int, default=0, help="go on from this frame (%%frames)")
    @argument("--iteration", action="store_true", help="run the round again")
    @argument("--skip-batch", action="store_true", help="leave the batch out")
    @argument("--skip", action="store_true", help="skip the failing statement")
    @argument("--raise", dest="fail", action="store_true", help="let it fail after all")
    @argument("--abandon", action="store_true", help="give the run up")
    @argument("--dry-run", action="store_true", help="only say what would happen")
    @argument(
        "--return",
        dest="value",
        nargs=argparse.REMAINDER,
        metavar="EXPR",
        help="return this from the frame; the last option",
    )
    @line_cell_magic
    def resume(self, line: str, cell: str | None = None) -> None:
        """Go on with the parked run, in the code as it is now.

        As a cell magic: with the new body of the %%resilient cell.
        """
        with self.shown():
            waiter = self._go_on(line, cell)
            if waiter is not None:
                waiter.wait()
                self.front.settle(waiter.job)

    async def awaited(self, line: str, cell: str | None = None) -> None:
        """The same, for a cell that can await."""
        with self.shown():
            waiter = self._go_on(line, cell)
            if waiter is not None:
                await waiter.wait_async()
                self.front.settle(waiter.job)

    def _go_on(self, line: str, cell: str | None) -> Waiter | None:
        asked = self.parse(self.resume, line)
        restart = self._restart(asked)
        if asked.dry_run:
            self.front.shell.say(str(self.front.plan(restart, cell)))
            return None
        return self.front.go_on(restart, cell)

    def _restart(self, asked: argparse.Namespace) -> Restart:
        chosen = {
            Action.ITERATION: asked.iteration,
            Action.SKIP_BATCH: asked.skip_batch,
            Action.SKIP: asked.skip,
            Action.RAISE: asked.fail,
            Action.ABANDON: asked.abandon,
            Action.RETURN: asked.value is not None,
        }
        actions = [action for action, is_chosen in chosen.items() if is_chosen]
        if len(actions) > 1 or (actions and asked.at is not None):
            raise UsageError(
                "Only one of --at, --iteration, --skip-batch, --skip, --return, "
                "--raise and --abandon can be done; choose one."
            )
        action = actions[0] if actions else Action.RETRY
        value = None
        if action is Action.RETURN:
            expression = " ".join(asked.value)
            value = looking.value_of(self.front, expression, asked.frame)
        return Restart(action=action, frame=asked.frame, line=asked.at, value=value)
