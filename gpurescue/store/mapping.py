"""A part of a file as memory of its own: read as it is touched, private to who writes.

Not by Python's ``mmap``: that keeps a descriptor open for each mapping, and a model has
hundreds of tensors, each of which must be able to go by itself.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from typing import Any

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # in the module since 3.13
_BOTH = mmap.PROT_READ | mmap.PROT_WRITE
_TO_ADDRESS = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_POPULATE_READ = 22  # Linux 5.14; not in the module
_UNREADABLE = {errno.EFAULT, errno.EIO, getattr(errno, "EHWPOISON", 133)}
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_move: Any = getattr(_libc, "mremap", None)  # Linux
if _move is not None:
    _move.restype = ctypes.c_void_p
    _move.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_void_p),
    ]


def private(file: int, offset: int, nbytes: int) -> memoryview:
    """Map a part of a file; the mapping goes with the last who looks at it.

    Args:
        file: A descriptor, which may be closed then.
        offset: Where the part begins.
        nbytes: How long it is; at least 1.

    Raises:
        OSError: The system has no more room for mappings.
    """
    before = offset % mmap.PAGESIZE
    flags, length = mmap.MAP_PRIVATE | _NO_RESERVE, before + nbytes
    address = _libc.mmap(None, length, _BOTH, flags, file, offset - before)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    found = (ctypes.c_char * length).from_address(address)
    last = weakref.finalize(found, _libc.munmap, address, length)
    last.atexit = False  # tensors are still used while Python goes down
    return memoryview(found).cast("B")[before:]


def fetch(part: memoryview) -> None:
    """Have the system read a part of a mapped file, where it can be asked to.

    Not by Python's ``mmap.madvise``: that lets no other thread run meanwhile.

    Args:
        part: Of a mapping that may be written to.

    Raises:
        OSError: It cannot be read; whoever touches it gets a signal.
    """
    if not part.nbytes:
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(part))
    before = address % mmap.PAGESIZE
    length = before + part.nbytes
    if _libc.madvise(address - before, length, _POPULATE_READ):
        number = ctypes.get_errno()
        if number in _UNREADABLE:  # else it does not know how: an old system
            raise OSError(number, os.strerror(number))


class Copy:
    """A copy of a mapped part, to be put in its place when nobody is writing.

    A private mapping alone is not enough: when the file is cut off, even those pages go
    that were written long since. And fresh pages are what takes time (0.5 s for 1 GB
    on an idle machine): they are made ahead.

    Args:
        address: Of the part.
        nbytes: Its size.

    Raises:
        OSError: There is no memory for it, or the system cannot do it.
    """

    def __init__(self, address: int, nbytes: int) -> None:
        self._first = address - address % mmap.PAGESIZE
        self._length = address + nbytes - self._first
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        made = None
        if _move is not None:
            made = _libc.mmap(None, self._length, _BOTH, flags, -1, 0)
        if made is None or made == _FAILED:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self._made: int = made
        self._unmap = weakref.finalize(self, _libc.munmap, made, self._length)
        ctypes.memmove(made, self._first, self._length)

    def put(self) -> None:
        """Put it in place, with what was written since; others may read meanwhile."""
        if _libc.memcmp(self._made, self._first, self._length):
            ctypes.memmove(self._made, self._first, self._length)
        length = self._length
        if _move(self._made, length, length, _TO_ADDRESS, self._first) != _FAILED:
            self._unmap.detach()
