"""Files of a store, reached through open folders and never through links.

A store may come from somebody else. Names are checked before they get here, no link is
followed, and nothing but a plain file is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from gpurescue.errors import Damaged, NotWritten, Refused

FOLDER_MODE, FILE_MODE = 0o700, 0o600
UNFINISHED = ".unfinished-"
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Folder:
    """An open folder of a store.

    Args:
        path: Where it is; must not be a link.
        parent: The folder that it is in, or None for the store itself.
        create: True to make it, for its owner only, where it is not there.

    Raises:
        Refused: It is a link, or no folder, or of another user.
        NotWritten: It cannot be made.
    """

    def __init__(
        self, path: Path | str, parent: Folder | None = None, *, create: bool = False
    ) -> None:
        self.name: str = str(path) if parent is None else f"{parent.name}/{path}"
        at: int | None = None if parent is None else parent.descriptor
        self.descriptor: int
        if create:
            with (
                writing(f"the folder {self.name}"),
                contextlib.suppress(FileExistsError),
            ):
                os.mkdir(path, FOLDER_MODE, dir_fd=at)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.descriptor = os.open(path, flags, dir_fd=at)
        except OSError as error:
            raise Refused(f"{self.name} is no folder: {error.strerror}.") from error
        self._close = weakref.finalize(self, os.close, self.descriptor)
        owner = os.fstat(self.descriptor).st_uid
        if owner not in {os.getuid(), 0}:
            self.close()
            raise Refused(f"{self.name} belongs to another user (number {owner}).")

    def close(self) -> None:
        """Give the folder back."""
        self._close()

    def names(self) -> list[str]:
        """What is in it, sorted."""
        return sorted(os.listdir(self.descriptor))

    def open(self, name: str) -> int:
        """A descriptor of a plain file in it.

        Raises:
            Damaged: There is none of that name.
            Refused: It is a link, a pipe, a device.
        """
        try:
            descriptor = os.open(name, _READING, dir_fd=self.descriptor)
        except FileNotFoundError as error:
            raise Damaged(f"{self.name}/{name} is missing.") from error
        except OSError as error:
            why = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise Refused(f"{self.name}/{name} cannot be opened: {why}.") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused(f"{self.name}/{name} is not a plain file.")
        return descriptor

    def read(self, name: str, limit: int) -> bytes:
        """All of a file.

        Raises:
            Refused: It has more than ``limit`` bytes.
            Damaged: It is missing, or the disk does not give it.
        """
        with os.fdopen(self.open(name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise Refused(
                    f"{self.name}/{name} has {size} bytes; none has over {limit}."
                )
            try:
                return file.read(limit + 1)[:limit]
            except OSError as error:
                raise Damaged(f"{self.name}/{name}: {error.strerror}.") from error

    def publish(
        self,
        name: str,
        write: Callable[[int], None],
        *,
        replaces: bool = False,
        lasts: bool = True,
    ) -> None:
        """Write a file that is there whole, and durable, or not at all.

        Args:
            name: Its name, which no other file has.
            write: Writes to the descriptor that it is given.
            replaces: True if another file may have that name, which this one can stand
                in for. If it fails, one of the two is there.
            lasts: False if a machine that loses its power may lose it, too.

        Raises:
            NotWritten: The disk is full, broken, or cannot be written to.
        """
        temporary = f"{UNFINISHED}{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(f"{self.name}/{name}"):
            file = os.open(temporary, flags, FILE_MODE, dir_fd=self.descriptor)
            try:
                try:
                    write(file)
                    if lasts:
                        os.fsync(file)
                finally:
                    os.close(file)
                at = self.descriptor
                os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
                if not replaces:
                    temporary = name  # visible, not known to last: taken back then
                if lasts:
                    os.fsync(self.descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=self.descriptor)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with writing(f"{self.name}/{name}"), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def about(self, name: str) -> os.stat_result:
        """Its size and times; of a link, those of the link itself."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def touch(self, name: str) -> None:
        """Have a file look as if it had been written now."""
        with writing(f"{self.name}/{name}"):
            os.utime(name, dir_fd=self.descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """True if something of that name is in it."""
        try:
            self.about(name)
        except FileNotFoundError:
            return False
        return True


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Say what could not be written, and why.

    Raises:
        NotWritten: The system call in the block has failed.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise NotWritten(f"{what} could not be written: {why}.") from error


def write_all(file: int, data: memoryview | bytes, offset: int = 0) -> None:
    """``pwrite`` until all is written: one call may write less than it is given."""
    left = memoryview(data)
    while left:
        count = os.pwrite(file, left, offset)
        if count == 0:
            raise OSError(errno.EIO, "nothing was written")
        left, offset = left[count:], offset + count
