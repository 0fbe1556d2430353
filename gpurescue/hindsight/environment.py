"""What a run is made of besides its source: the process, its libraries, the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED")
_INSTALLED = ".dist-info"


def facts(folder: Path, modules: Mapping[str, Any] = sys.modules) -> dict[str, str]:
    """Facts that may change what a run computes, by name.

    Nothing is imported, and no other program is started.

    Args:
        folder: Of the notebook: the git commit is that of its repository.
        modules: Those that are loaded.
    """
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": str(os.cpu_count()),
    }
    found |= {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    found |= _packages(sys.path)
    torch = modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):  # half imported
            found |= _of_torch(torch)
    commit = git_commit(folder)
    return found if commit is None else {**found, "git": commit}


def _packages(paths: Iterable[str]) -> dict[str, str]:
    """Versions of what is installed, by name; told by the names of folders alone."""
    found: dict[str, str] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            for entry in sorted(os.listdir(path or ".")):
                name, _, version = entry.removesuffix(_INSTALLED).rpartition("-")
                if entry.endswith(_INSTALLED) and name:
                    found.setdefault(f"package {name}", version)
    return found


def _of_torch(torch: Any) -> dict[str, str]:
    found = {"threads": str(torch.get_num_threads())}
    if torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            found[f"device {number}"] = torch.cuda.get_device_name(number)
        found["cuda"] = str(torch.version.cuda)
    return found


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out there; None without git, or before the first."""
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                return _head(_git_folder(place / ".git"))
            return None
    return None


def _git_folder(path: Path) -> Path:
    """The folder itself, or the one that a file of a work tree names."""
    if path.is_dir():
        return path
    return (path.parent / path.read_text().removeprefix("gitdir:").strip()).resolve()


def _head(git: Path) -> str | None:
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head or None
    name = head.removeprefix("ref:").strip()
    common = git
    if (git / "commondir").exists():  # of a work tree
        common = (git / (git / "commondir").read_text().strip()).resolve()
    with contextlib.suppress(FileNotFoundError):
        return (common / name).read_text().strip()
    with contextlib.suppress(FileNotFoundError):
        for line in (common / "packed-refs").read_text().splitlines():
            commit, _, found = line.partition(" ")
            if found == name:
                return commit
    return None
