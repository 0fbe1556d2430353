"""What a program has changed around itself in its process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator

from gpurescue.state.loggers import Loggers


class Surroundings:
    """Environment, folder and search path, as they were when this was made.

    Attributes:
        loggers: As they were then.
        began: When this was, in seconds since 1970; or when another process has begun
            what goes on in this one.
    """

    def __init__(self) -> None:
        self.loggers = Loggers()
        self.began = time.time()
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


@contextlib.contextmanager
def entering(data: bytes) -> Iterator[None]:
    """Enter; if the block fails, all is as before."""
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    enter(data)
    try:
        yield
    except BaseException:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        sys.path[:] = path
        os.chdir(folder)
        raise


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
