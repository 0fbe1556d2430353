"""Files that a program has written to and closed again, such as a log by lines.

A round that is done again appends its line once more. So a checkpoint says how long the
files of the program's folder were. What was appended to one since, by the time that the
run was killed, is cut off when the run goes on, and kept aside. A file whose text has
changed is none of these: whoever wrote it anew will do so again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpurescue.state import reopening

_MOST = 2000  # entries of a folder and of those below it that are looked at
_SLACK = 10.0  # seconds that the last word of a run may be older than its end


@dataclass(frozen=True, slots=True)
class Written:
    """A file as a checkpoint has found it.

    Attributes:
        path: Absolute.
        size: In bytes.
        proof: Of what is in it; see ``reopening.proof``.
    """

    path: str
    size: int
    proof: bytes


@dataclass(frozen=True, slots=True)
class Folder:
    """The program's folder.

    Attributes:
        began: When the program was begun, in seconds since 1970: before another process
            went on with it, if one did.
        files: Those in it, and below it, that were written to since.
    """

    began: float
    files: tuple[Written, ...] = ()


def read(began: float) -> Folder:
    """The current folder, as it is now.

    Hidden files are left out, and all behind the first 2,000 entries; links to other
    folders are not followed.

    Args:
        began: As ``Folder`` has it.
    """
    made: list[Written] = []
    for path, seen in _entries(os.getcwd()):
        if seen.st_mtime >= began:
            with contextlib.suppress(OSError):
                proof = reopening.proof(path, seen.st_size, seen.st_size)
                made.append(Written(path, seen.st_size, proof))
    return Folder(began, tuple(made))


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Plain files, those of the folder itself first."""
    waiting, num = deque([folder]), 0
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.popleft()), key=lambda x: x.name)
        except OSError:
            continue
        for entry in entries:
            num += 1
            if num > _MOST:
                return
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path, entry.stat(follow_symlinks=False)


def appended(
    found: Folder, ended: float, known: Collection[str] = ()
) -> tuple[tuple[Written, ...], tuple[Written, ...]]:
    """Files that were appended to since.

    Args:
        found: As it was.
        ended: When the run was seen last, in seconds since 1970.
        known: Paths of files that somebody else sees to.

    Returns:
        Those that nobody has written to behind the end of the run, and the others.
    """
    cut: list[Written] = []
    touched: list[Written] = []
    for file in found.files:
        since = None if file.path in known else _appended(file)
        if since is not None:
            (cut if since <= ended + _SLACK else touched).append(file)
    return tuple(cut), tuple(touched)


def _appended(file: Written) -> float | None:
    """When it was appended to last; None if that is not what was done."""
    try:
        seen = os.lstat(file.path)
        is_longer = stat.S_ISREG(seen.st_mode) and seen.st_size > file.size
        if not is_longer:
            return None
        is_same = reopening.proof(file.path, file.size, file.size) == file.proof
    except OSError:  # it is gone, or somebody else's by now
        return None
    return seen.st_mtime if is_same else None


def cut(files: Sequence[Written], aside: Path) -> None:
    """Cut off what was appended; it is kept.

    Args:
        files: As ``appended`` has found them.
        aside: The folder to keep it in; it is made if it is not there.

    Raises:
        OSError: One of them cannot be kept, or cut. Nothing is lost.
    """
    for file in files:
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        name, number = os.path.basename(file.path), 1
        while (to := aside / f"{name}.{number}").exists():
            number += 1
        with open(file.path, "r+b") as text:
            text.seek(file.size)
            with open(to, "xb") as kept:
                os.chmod(to, 0o600)
                shutil.copyfileobj(text, kept)
            text.truncate(file.size)
