"""Dead frames by the module that their functions are of."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

Dead = Sequence[TracebackType]


def is_of(entry: TracebackType, package: str) -> bool:
    """True if the function of a dead frame is of ``package`` or of a module in it."""
    name = str(entry.tb_frame.f_globals.get("__name__", ""))
    return name == package or name.startswith(package + ".")
