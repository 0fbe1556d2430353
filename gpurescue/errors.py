"""Every error that gpurescue raises, in one tree.

    RescueError
      RecoveryError
        Suspended          the cell ended, the run is parked and alive
        CannotSuspend      a frame cannot be held; the user's exception goes on
        CannotResume       the asked-for restart would not be exact
        PatchRejected      an edit cannot be carried into the live frame
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


class UsageError(RescueError):
    """A wrong argument, or a command at the wrong moment."""
