"""What a program has changed around itself in its process."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


class Surroundings:
    """Environment, folder and search path, as they were when this was made."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._path = list(sys.path)

    def read(self) -> dict[str, Any]:
        """What has changed since, as plain data."""
        now = dict(os.environ)
        return {
            "set": {k: v for k, v in now.items() if self._environment.get(k) != v},
            "unset": sorted(self._environment.keys() - now.keys()),
            "folder": os.getcwd(),
            "path": [entry for entry in sys.path if entry not in self._path],
        }


def enter(found: dict[str, Any]) -> None:
    """Change the process as ``read`` has found another one changed."""
    os.environ.update(found["set"])
    for name in found["unset"]:
        os.environ.pop(name, None)
    sys.path += [entry for entry in found["path"] if entry not in sys.path]
    with contextlib.suppress(OSError):  # it is gone
        os.chdir(found["folder"])
