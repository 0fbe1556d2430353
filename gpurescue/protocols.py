"""The shapes that lower layers ask of higher ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class DeviceRuntime(Protocol):
    """What recovery needs to know of the device library (torch)."""

    def capture_modes(self) -> Callable[[], None]:
        """Read the calling thread's modes; the result applies them in another.

        Modes are the thread-local ones: gradients, autocast, inference mode and
        default device.
        """
        ...
