"""CUDA streams and events in a graph of objects: new ones that are like the old.

Nothing is under way in them at a checkpoint that the run would wait for later: an event
that was recorded has happened, and is recorded anew.
"""

from __future__ import annotations

import sys
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.lost import Lost

Reduced = tuple[Any, ...]

_NO_DEVICE = "needs a device that is not here"


class Queue:
    """Stands for a stream; objects that mean the same stream have the same one.

    Args:
        device: Its index.
        priority: Of the stream; None for the default stream of the device.
    """

    def __init__(self, device: int, priority: int | None) -> None:
        self.device = device
        self.priority = priority
        self._made: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": None}

    def stream(self) -> Any:
        """The stream of this process."""
        torch = sys.modules["torch"]
        if self._made is None and self.priority is None:
            self._made = torch.cuda.default_stream(self.device)
        elif self._made is None:
            self._made = torch.cuda.Stream(self.device, self.priority)
        return self._made


def kinds() -> tuple[type, ...]:
    """What this module knows; nothing before torch is imported."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    return () if cuda is None else (cuda.Stream, cuda.Event, cuda.CUDAGraph)


class Queues:
    """The streams that a capture has come by."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Queue] = {}

    def reduced(self, value: Any) -> Reduced | None:
        """How a stream or an event is pickled; None for anything else.

        Raises:
            CannotResume: It is a graph that was captured: it stays with its process.
        """
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        if type(value) is torch.cuda.Stream:
            return stream, (self._of(value),)
        if type(value) is torch.cuda.Event:
            is_recorded = bool(value.cuda_event)
            where = value.device.index if is_recorded else None
            return event, (_has_timing(value), where)
        if isinstance(value, torch.cuda.CUDAGraph):
            raise CannotResume("what it has captured is gone with its process")
        return None

    def _of(self, value: Any) -> Queue:
        device, number = value.device_index, value.stream_id
        priority = value.priority if number else None
        return self._known.setdefault((device, number), Queue(device, priority))


def _has_timing(value: Any) -> bool:
    """What an event was made with: it says so only when it is asked for a time."""
    try:
        value.elapsed_time(value)
    except (RuntimeError, ValueError) as error:
        return "enable_timing" not in str(error)
    return True


def stream(queue: Queue) -> Any:
    """Called by the pickle."""
    import torch

    if not torch.cuda.is_available():
        return Lost("CUDA stream", _NO_DEVICE)
    return queue.stream()


def event(has_timing: bool, device: int | None) -> Any:
    """Called by the pickle."""
    import torch

    if not torch.cuda.is_available():
        return Lost("CUDA event", _NO_DEVICE)
    kind: Any = torch.cuda.Event
    found = kind(enable_timing=has_timing)
    if device is not None:
        found.record(torch.cuda.current_stream(device))
    return found
