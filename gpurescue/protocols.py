"""The shapes that lower layers ask of higher ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import FrameType, FunctionType
from typing import Protocol, runtime_checkable


class Rollback(Protocol):
    """A library call that failed half-way, and how to run it again exactly.

    Made at the failure, while the dead frames of the call still have their variables.
    Used once, if the statement that made the call runs again; else forgotten.
    """

    @property
    def note(self) -> str:
        """For the plan: what is done about it, or why it cannot be done.

        Such as ``AdamW.step had begun: what it has done is not done again``.
        """
        ...

    @property
    def is_exact(self) -> bool:
        """True if the call can run again as if it had never begun."""
        ...

    @property
    def gives_again(self) -> bool:
        """True if an iterator failed that will give the same item when asked again."""
        ...

    def apply(self) -> None:
        """Take back what was half done; called in the run's thread before it runs."""
        ...


class RoundMark(Protocol):
    """What the device library had at the top of a round of a loop."""

    def problem(self, roots: Iterable[object]) -> str | None:
        """Why the round cannot be taken back; None if it can.

        Args:
            roots: The variables as they are now.
        """
        ...

    def apply(self) -> None:
        """Put everything back; called in the run's thread."""
        ...


class Watcher(Protocol):
    """Wants to see a run at tops of rounds, now and then."""

    def wants(self) -> bool:
        """True if it wants to see the run now; asked from any thread."""
        ...

    def look(self, frame: FrameType, num_rounds: int) -> float:
        """The run stands at the top of a round; called in its thread.

        Args:
            frame: The one that the loop is in.
            num_rounds: Rounds that the run has gone through.

        Returns:
            Seconds until the next look is wanted.
        """
        ...


class Journal(Protocol):
    """Reads what a round of a loop may change; used in the run's thread only."""

    def find(self, roots: Iterable[object]) -> None:
        """Look for training state in variables: at the beginning of a loop."""
        ...

    def mark(self) -> RoundMark:
        """Read what the round that begins now may change."""
        ...

    def rest(self) -> None:
        """No round is marked for a while, or ever again: watch nothing."""
        ...


@runtime_checkable
class Skippable(Protocol):
    """A ``Rollback`` that has something to do also if the item is given up."""

    def skip(self) -> None:
        """Make the iterator go on behind the item that failed."""
        ...


@runtime_checkable
class GoingOn(Protocol):
    """A ``Rollback`` that is of use only where the statement that failed runs again."""

    @property
    def is_going_on(self) -> bool:
        """True; what the call has done stays, and only the rest of it runs."""
        ...


class DeviceRuntime(Protocol):
    """What recovery needs to know of the device library (torch)."""

    def capture_modes(self) -> Callable[[], None]:
        """Read the calling thread's modes; the result applies them in another.

        Modes are the thread-local ones: gradients, autocast, inference mode and
        default device.
        """
        ...

    def lost(self, error: BaseException) -> str:
        """Why the device takes no more commands of this process; empty if it does."""
        ...

    def journal(self, *, keeps_parameters: bool) -> Journal:
        """A journal for one run.

        Args:
            keeps_parameters: True to copy what optimizers are about to write.
        """
        ...

    def memory(self) -> dict[str, int]:
        """Bytes in use now, by device; those of the process under ``host``."""
        ...

    def watch(
        self, hold: Callable[[FunctionType], FunctionType | None]
    ) -> Callable[[], None]:
        """Have the library's own iterators hold a run where they fail.

        Args:
            hold: Gives a function like another, whose failure holds the run; None if
                there can be no such.

        Returns:
            What puts the library back.
        """
        ...

    def rollbacks(self, error: BaseException, frame: FrameType) -> Sequence[Rollback]:
        """What the library calls that ``error`` came out of had half done.

        Called in the run's thread. ``error.__traceback__`` begins at, or outside of,
        ``frame``, the user's frame that is held; the frames behind it are dead, but
        still have their variables.
        """
        ...
