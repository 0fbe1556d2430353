"""How much memory there is for the copy of a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

from gpurescue.errors import NotWritten
from gpurescue.store.packs import PIECE
from gpurescue.store.staging import Staging

_PART_OF_MEMORY = 0.25  # of what is free, for one of the copies
_LEAST = 4 * PIECE  # with less than this there is no copying beside writing


def room(staging: Staging, nbytes: int) -> int:
    """How much memory there is to be for a pack: if not for all of it, a ring.

    Args:
        staging: What there is already.
        nbytes: Size of the pack.

    Raises:
        NotWritten: There is too little.
    """
    if staging.has(nbytes):
        return nbytes
    available = _available_memory() + len(staging.data)
    most = available * _PART_OF_MEMORY
    if nbytes <= most:
        return nbytes
    if most < _LEAST:
        raise NotWritten(
            f"A checkpoint may take {_PART_OF_MEMORY:.0%} of the memory that is free, "
            f"{available / 2**20:.0f} MiB, and needs {_LEAST / 2**20:.0f} MiB; this "
            "run goes on without checkpoints."
        )
    return max(int(most), len(staging.data))


def _available_memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(found[0]) * 1024 if found else math.inf
