"""Fix a crashed training run in place, in the notebook, and go on from that line.

``%load_ext gpurescue`` does all, ``%unload_ext gpurescue`` undoes all; importing the
package does nothing. What the magics do can be done from Python with the functions
here, which load what they need when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from gpurescue.errors import (
        CannotResume,
        CannotSuspend,
        PatchRejected,
        RecoveryError,
        RescueError,
        Suspended,
        UsageError,
    )
    from gpurescue.hindsight.recorder import arg, log
    from gpurescue.magics.api import (
        at,
        checkpoints,
        diff,
        fix,
        frames,
        logs,
        plan,
        rescue,
        resilient,
        restore,
        resume,
        runs,
        skipped,
        sql,
        suspension,
        verify,
    )
    from gpurescue.recovery.suspension import Suspension

__all__ = [
    "CannotResume",
    "CannotSuspend",
    "PatchRejected",
    "RecoveryError",
    "RescueError",
    "Suspended",
    "Suspension",
    "UsageError",
    "__version__",
    "arg",
    "at",
    "checkpoints",
    "diff",
    "fix",
    "frames",
    "load_ipython_extension",
    "log",
    "logs",
    "plan",
    "rescue",
    "resilient",
    "restore",
    "resume",
    "runs",
    "skipped",
    "sql",
    "suspension",
    "unload_ipython_extension",
    "verify",
]

_HOMES = {
    "gpurescue.errors": (
        "CannotResume",
        "CannotSuspend",
        "PatchRejected",
        "RecoveryError",
        "RescueError",
        "Suspended",
        "UsageError",
    ),
    "gpurescue.magics.api": (
        "at",
        "checkpoints",
        "diff",
        "fix",
        "frames",
        "logs",
        "plan",
        "rescue",
        "resilient",
        "restore",
        "resume",
        "runs",
        "skipped",
        "sql",
        "suspension",
        "verify",
    ),
    "gpurescue.hindsight.recorder": ("arg", "log"),
    "gpurescue.recovery.suspension": ("Suspension",),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # 20 ms

        try:
            return metadata.version("gpurescue")
        except metadata.PackageNotFoundError:  # a working tree on the path
            return "0+source"
    for home, names in _HOMES.items():
        if name in names:  # looked up once: ``log`` is called in loops
            found = globals()[name] = getattr(import_module(home), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(ip: InteractiveShell) -> None:
    """``%load_ext gpurescue``: guard what is defined from now on, add the magics."""
    from gpurescue.magics import extension

    extension.load(ip)


def unload_ipython_extension(ip: InteractiveShell) -> None:
    """``%unload_ext gpurescue``: put everything back as it was."""
    from gpurescue.magics import extension

    extension.unload(ip)
