"""Where in a pack each chunk of bytes goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PAGE = 4096  # what O_DIRECT and mappings want large chunks to begin at
LINE = 64  # what small chunks begin at: 40,000 of them on pages would be 160 MB of gaps
SMALL = 16 * PAGE


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of chunks in one pack.

    Attributes:
        offsets: Of each chunk, in the order in which they were given.
        nbytes: All of the pack, a multiple of ``PAGE``.
    """

    offsets: tuple[int, ...]
    nbytes: int


def lay_out(sizes: Sequence[int]) -> Layout:
    """Large chunks first, each on a page; behind them small ones, close together."""
    offsets = [0] * len(sizes)
    end = 0
    for is_small, step in ((False, PAGE), (True, LINE)):
        for index, nbytes in enumerate(sizes):
            if (nbytes < SMALL) is is_small:
                offsets[index] = end
                end = _up(end + nbytes, step)
    return Layout(tuple(offsets), _up(end, PAGE))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
