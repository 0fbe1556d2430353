"""Every error that gpurescue raises, in one tree.

    RescueError
      RecoveryError
        Suspended          the cell ended, the run is parked and alive
        CannotSuspend      a frame cannot be held; the user's exception goes on
        CannotResume       the asked-for restart would not be exact
        PatchRejected      an edit cannot be carried into the live frame
      StoreError
        Damaged            bytes on disk are not those that were written
        Refused            what is there is no store of ours, or a hostile one
        NotWritten         the disk took no checkpoint; older ones are as they were
        Locked             another process has what is asked for
      HindsightError
        CannotPlace        added statements do not fit into an old version
      UsageError           a wrong argument, or the wrong moment

A message says what happened, with the value, and what to do next.
"""

from __future__ import annotations


class RescueError(Exception):
    """Root of all errors raised by gpurescue."""


class RecoveryError(RescueError):
    """Something about a suspended or running job."""


class Suspended(RecoveryError):
    """A cell ended while its run stays parked; ``%resume`` goes on."""


class CannotSuspend(RecoveryError):
    """A frame cannot be held at its failing statement."""


class CannotResume(RecoveryError):
    """The asked-for way to go on would not be exact."""


class PatchRejected(RecoveryError):
    """An edit cannot be carried into the live frame."""


class StoreError(RescueError):
    """Something about checkpoints on disk."""


class Damaged(StoreError):
    """Bytes on disk are not those that were written."""


class Refused(StoreError):
    """What is there is no store of ours, or a hostile one; nothing was touched."""


class NotWritten(StoreError):
    """The disk took no checkpoint; older ones are as they were."""


class Torn(StoreError):
    """Memory was written to while it was copied; what was copied is of no use.

    Attributes:
        numbers: Which stretches of memory.
    """

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(
            f"{len(numbers)} tensors were written to while they were copied"
        )
        self.numbers = numbers


class Locked(StoreError):
    """Another process has what is asked for."""


class HindsightError(RescueError):
    """Something about past runs."""


class CannotPlace(HindsightError):
    """Added statements do not fit into an old version, or not in one place only."""


class UsageError(RescueError):
    """A wrong argument, or a command at the wrong moment."""
