"""Files and folders outside of a store, which appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from gpurescue.errors import NotWritten, UsageError
from gpurescue.store.files import writing
from gpurescue.store.packs import Progress

_EVERY = 0.1  # seconds between two looks at how much is written


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """Have what the block writes appear under a name, whole and durable.

    What has that name is replaced: a file at once, a folder with a moment in between.

    Args:
        path: The name.

    Yields:
        Where to write a file or a folder.

    Raises:
        NotWritten: It could not be, and nothing is left of it.
    """
    path = path.absolute()  # "." has no name
    mark = f".{path.name}.{secrets.token_hex(4)}"
    temporary = path.with_name(f"{mark}.unfinished")
    old = path.with_name(f"{mark}.old")
    try:
        with _named(path):
            yield temporary
            with writing(str(path)):
                _sync(temporary)
                if path.is_dir() and not path.is_symlink():
                    os.rename(path, old)  # a folder cannot be replaced at once
                os.rename(temporary, path)
                _sync(path.parent, deep=False)
    finally:
        _remove(temporary)
        if os.path.lexists(path):
            _remove(old)
        elif os.path.lexists(old):
            os.rename(old, path)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Three libraries write, each with errors of its own."""
    try:
        yield
    except (NotWritten, UsageError):
        raise
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotWritten(f"{path} could not be written: {why}.") from error


def _sync(path: Path, *, deep: bool = True) -> None:
    for inner in path.iterdir() if deep and path.is_dir() else ():
        _sync(inner)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def watched(path: Path, progress: Progress | None) -> Iterator[None]:
    """Look how far a library is that does not say so itself.

    Args:
        path: What it writes.
        progress: Called with numbers of bytes.
    """
    if progress is None:
        yield
        return
    is_done, seen = threading.Event(), [0]

    def look() -> None:
        with contextlib.suppress(OSError):
            now = _size(path)
            progress(now - seen[0])
            seen[0] = now

    def watch() -> None:
        while not is_done.wait(_EVERY):
            look()

    thread = threading.Thread(target=watch, name="gpurescue-export", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
        look()


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)
