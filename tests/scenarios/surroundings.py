"""What programs may change around them in a kernel that they share, and take back."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys

import numpy as np
import psutil
import torch

_LIMITS = ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_FSIZE")
_environment = dict(os.environ)
_limits = {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS}
_recursion = sys.getrecursionlimit()


def enter(folder: str) -> None:
    """Give a program the surroundings of a fresh process, in a folder of its own."""
    for name, limits in _limits.items():
        resource.setrlimit(getattr(resource, name), limits)
    os.chdir(folder)
    seed()
    os.environ.clear()
    os.environ.update(_environment)
    sys.setrecursionlimit(_recursion)
    torch.set_default_dtype(torch.float32)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def seed() -> None:
    """Streams that a program does not seed itself are the same in every process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
