"""What is in the memory of this process of checkpoints of a store.

The newest ones of a run, and those that no disk has taken: these are nowhere else.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

from gpurescue.store.format import Manifest


class Held:
    """Of one store, however often it is opened.

    Attributes:
        packs: Bytes of packs, by name; they may change, and are of no use then.
        unwritten: Checkpoints that are nowhere else, by id, oldest first.
    """

    def __init__(self) -> None:
        self.packs: dict[str, memoryview] = {}
        self.unwritten: dict[str, Manifest] = {}


_held: weakref.WeakValueDictionary[Path, Held] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def of(path: Path) -> Held:
    """What is held of the store in a folder; there for as long as somebody has it."""
    with _lock:
        return _held.setdefault(path, Held())
