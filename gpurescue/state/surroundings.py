"""What a program has changed around itself in its process."""

from __future__ import annotations

import contextlib
import json
import os
import sys


class Surroundings:
    """Environment, folder and search path, as they were when this was made."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._path = list(sys.path)

    def read(self) -> bytes:
        """What has changed since, as JSON."""
        now = dict(os.environ)
        found = {
            "set": {k: v for k, v in now.items() if self._environment.get(k) != v},
            "unset": sorted(self._environment.keys() - now.keys()),
            "folder": os.getcwd(),
            "path": [entry for entry in sys.path if entry not in self._path],
        }
        return json.dumps(found).encode()


def enter(data: bytes) -> None:
    """Change the process as ``read`` has found another one changed."""
    found = json.loads(data)
    os.environ.update(found.get("set", {}))
    for name in found.get("unset", ()):
        os.environ.pop(name, None)
    sys.path += [entry for entry in found.get("path", ()) if entry not in sys.path]
    if "folder" in found:
        with contextlib.suppress(OSError):  # it is gone
            os.chdir(found["folder"])
