"""Modules beside a notebook: files in a folder, imported with guards."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from gpurescue.recovery import edits
from gpurescue.recovery.edits import Outcome
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.source.folders import Folders
from gpurescue.source.hook import Hook
from gpurescue.source.modules import Modules


class Folder:
    """A folder on ``sys.path``; what was imported from it is forgotten at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_watched = False
        self.modules = Modules(Folders([path]), lambda: self.is_watched)
        self.hook = Hook(self.modules)
        self._saves = 0

    def __enter__(self) -> Folder:
        self._before = set(sys.modules)
        sys.path.insert(0, str(self.path))
        self.hook.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
        sys.path.remove(str(self.path))
        for name in set(sys.modules) - self._before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is None or file.startswith(str(self.path)):
                del sys.modules[name]
        importlib.invalidate_caches()

    def write(self, name: str, text: str | bytes) -> Path:
        """Save a file; its time is never that of the last save."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, str):
            text = textwrap.dedent(text).encode()
        path.write_bytes(text)
        self._saves += 1
        saved = path.stat().st_mtime + self._saves
        os.utime(path, (saved, saved))
        importlib.invalidate_caches()
        return path

    def load(self, name: str) -> ModuleType:
        return importlib.import_module(name)

    def edit(self, name: str, *replacements: tuple[str, str]) -> None:
        """Save a file with some of its text replaced."""
        text = (self.path / name).read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        self.write(name, text)

    def carry(
        self, redefinitions: Redefinitions | None = None, *others: dict[str, Any]
    ) -> list[Outcome]:
        """Put in force what was saved."""
        redefinitions = redefinitions or Redefinitions()
        for loaded in self.modules:
            edits.settle(loaded, redefinitions)
        changed = edits.saved(self.modules)
        found = [edits.read(self.modules, loaded) for loaded in changed]
        return [edits.carry(e, redefinitions, others) for e in found if e is not None]

    def compiled_files(self) -> list[Path]:
        return sorted(self.path.rglob("*.pyc"))
