"""``%frames``, ``%%at``, ``%fix`` and ``%rescue``: look at a parked run, change it."""

from __future__ import annotations

from IPython.core.magic import magics_class

from gpurescue.magics import kept, looking
from gpurescue.magics.commands import (
    Commands,
    argument,
    arguments,
    cell_magic,
    line_magic,
)


@magics_class
class LookMagics(Commands):
    """Looks at the parked run, which stays parked."""

    @arguments()
    @argument("index", type=int, nargs="?", help="only this frame")
    @line_magic
    def frames(self, line: str) -> None:
        """Show the suspended stack with its variables; the innermost frame is 0."""
        with self.shown():
            asked = self.parse(self.frames, line)
            looking.show_frames(self.front, asked.index)

    @arguments()
    @argument("frame", type=int, nargs="?", default=0, help="which frame (%%frames)")
    @cell_magic
    def at(self, line: str, cell: str) -> None:
        """Run the cell inside a suspended frame: read and write its variables."""
        with self.shown():
            asked = self.parse(self.at, line)
            looking.run_at(self.front, cell, asked.frame)

    @arguments()
    @argument("name", nargs="?", help="a function or class; else what failed")
    @line_magic
    def fix(self, line: str) -> None:
        """Put the current source of what failed into a new cell, or say where it is."""
        with self.shown():
            asked = self.parse(self.fix, line)
            looking.offer_source(self.front, asked.name)

    @arguments()
    @line_magic
    def checkpoints(self, line: str) -> None:
        """Show the checkpoints that this notebook's runs have left, oldest first."""
        with self.shown():
            self.parse(self.checkpoints, line)
            kept.show(self.front)

    @arguments()
    @line_magic
    def rescue(self, line: str) -> None:
        """Say what the run is doing, what was patched in it, and how to go on."""
        with self.shown():
            self.parse(self.rescue, line)
            self.front.shell.say(looking.state(self.front))
