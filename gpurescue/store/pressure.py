"""How close this process is to being killed for want of memory."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

LEAST = 0.05  # of the memory that there may be
_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")  # version 2, as a container sees them
_OWN = Path("/proc/self/cgroup")


def is_high(meminfo: Path = _MEMINFO, group: Path | None = None) -> bool:
    """True if so little memory is left that the next large tensor may be the last.

    Of the machine, or of the container that the process is in. False where neither
    says.
    """
    shares = [_of_machine(meminfo), _of_group(group or _own_group())]
    return any(share is not None and share < LEAST for share in shares)


def _of_machine(path: Path) -> float | None:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in {"MemTotal", "MemAvailable"}:
                found[name] = int(rest.split()[0])
    total, free = found.get("MemTotal"), found.get("MemAvailable")
    return free / total if total and free is not None else None


def _of_group(folder: Path) -> float | None:
    """What the kernel would take back first, files that were read, counts as free."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())  # "max" if there is none
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        facts = dict(line.split()[:2] for line in lines)
        return (limit - used + int(facts.get("inactive_file", 0))) / limit
    return None


@functools.cache
def _own_group() -> Path:
    with contextlib.suppress(OSError):
        for line in _OWN.read_text().splitlines():
            if line.startswith("0::"):
                return _GROUPS / line[3:].strip("/")
    return _GROUPS
