"""Locks of a store: files that are locked by ``flock``, which a crash gives back."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from gpurescue.errors import Locked, NotWritten
from gpurescue.store.files import FILE_MODE, Folder, writing

GC = "gc"  # held alone by who removes packs, and by others while they refer to some
ALONE, SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH


@contextlib.contextmanager
def locked(folder: Folder, name: str, kind: int, what: str) -> Iterator[None]:
    """Hold a lock; nobody waits for one.

    Args:
        folder: Of locks.
        name: Of the lock.
        kind: ``ALONE`` or ``SHARED``.
        what: It stands for, for the message.

    Raises:
        Locked: Another process holds it.
        NotWritten: There is no such file yet, and it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with writing(f"{folder.name}/{name}"):
        file = os.open(name, flags, FILE_MODE, dir_fd=folder.descriptor)
    try:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"{what} is being written by another process.") from None
        yield
    finally:
        os.close(file)


def is_held(folder: Folder, name: str) -> bool | None:
    """Whether a process has a lock; None in a folder that one may only read."""
    try:
        with locked(folder, name, ALONE, "It"):
            return False
    except Locked:
        return True
    except NotWritten:
        return None
