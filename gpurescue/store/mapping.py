"""A part of a file as memory of its own: read as it is touched, private to who writes.

Not by Python's ``mmap``: that keeps a descriptor open for each mapping, and a model has
hundreds of tensors, each of which must be able to go by itself.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # in the module since 3.13
_BOTH = mmap.PROT_READ | mmap.PROT_WRITE
_TO_ADDRESS = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_move = getattr(_libc, "mremap", None)  # Linux
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


def settle(address: int, nbytes: int) -> None:
    """Put a copy of a mapped part in its place: the file is of no more importance.

    A private mapping alone is not enough: when the file is cut off, pages go that were
    written long since. Large pages also take a quarter of the time that copies of small
    ones do, one at a time, when they are first written.

    Reading may go on; what is written meanwhile may be lost. Nothing is done on systems
    that cannot do it.
    """
    if _move is None:
        return
    first = address - address % mmap.PAGESIZE
    length = address + nbytes - first
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    copy = _libc.mmap(None, length, _BOTH, flags, -1, 0)
    if copy == _FAILED:
        return
    _libc.madvise(copy, length, mmap.MADV_HUGEPAGE)
    ctypes.memmove(copy, first, length)
    if _move(copy, length, length, _TO_ADDRESS, first) == _FAILED:
        _libc.munmap(copy, length)
