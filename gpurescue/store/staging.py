"""Memory to copy into: made once, and kept.

To touch fresh pages is what copying costs: 0.5 s for 1.5 GB, against 0.08 for the copy.
"""

from __future__ import annotations

import ctypes
import mmap

_PIECE = 16 * 2**20  # touched at a time: nobody else needs the interpreter meanwhile


class Staging:
    """A buffer that begins on a page, and only grows.

    Attributes:
        address: Where it begins.
        data: All of it.
    """

    def __init__(self) -> None:
        self.address = 0
        self.data = memoryview(b"")
        self._map: mmap.mmap | None = None

    def has(self, nbytes: int) -> bool:
        """True if there are at least so many bytes."""
        return nbytes <= len(self.data)

    def reserve(self, nbytes: int) -> None:
        """Have at least so many bytes, all of them touched; what is in it may go."""
        if self.has(nbytes):
            return
        self.data, self._map = memoryview(b""), None  # first: not both at a time
        # A tenth more: states grow by some small tensors when optimizers begin.
        nbytes = -(-(nbytes + nbytes // 10) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, nbytes)
        self.data = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for start in range(0, nbytes, _PIECE):
            ctypes.memset(self.address + start, 0, min(_PIECE, nbytes - start))
