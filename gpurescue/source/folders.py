"""Which files are the user's own: those beside the notebook, and below it."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_INSTALLED = {"site-packages", "dist-packages"}
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
_OURS = Path(__file__).parents[1]
_LEFT_OUT = re.compile(rb"^[ \t]*#[ \t]*gpurescue:[ \t]*off[ \t]*\r?$", re.MULTILINE)


class Folders:
    """Folders of the user's.

    Not all that lies in them is the user's: installed packages, virtual environments,
    the standard library, hidden folders and gpurescue itself are left out.

    Args:
        roots: The folders; those that do not exist are ignored.
    """

    def __init__(self, roots: Iterable[str | Path]) -> None:
        named = [_path(root) for root in roots]
        found = [form for root in named for form in (root, root.resolve())]
        self.roots = tuple(dict.fromkeys(form for form in found if form.is_dir()))
        paths = sysconfig.get_paths()
        libraries = [Path(paths[name]) for name in ("stdlib", "platstdlib")]
        self._foreign = {_OURS, *libraries, *(path.resolve() for path in libraries)}
        self._known: dict[Path, bool] = {}
        self._named: dict[str, bool] = {}

    def holds(self, file: str) -> bool:
        """Tell whether a file is one of the user's."""
        name = os.path.dirname(file)
        found = self._named.get(name)
        if found is None:
            folder = _path(file).parent
            found = self._is_users(folder) or self._is_users(folder.resolve())
            if os.path.isabs(name):
                self._named[name] = found
        return found

    def label(self, file: str) -> str:
        """What to call a file of the user's: its way from the folder."""
        for path in (_path(file), Path(file).resolve()):
            for root in self.roots:
                if path.is_relative_to(root):
                    return str(path.relative_to(root))
        return file

    def _is_users(self, folder: Path) -> bool:
        found = self._known.get(folder)
        if found is None:
            found = folder in self.roots or (
                any(folder.is_relative_to(root) for root in self.roots)
                and not self._is_foreign(folder)
                and self._is_users(folder.parent)
            )
            self._known[folder] = found
        return found

    def _is_foreign(self, folder: Path) -> bool:
        return (
            folder.name in _INSTALLED
            or folder.name.startswith(".")
            or folder in self._foreign
            or any((folder / name).exists() for name in _ENVIRONMENTS)
        )


def _path(name: str | Path) -> Path:
    """The absolute path, with ``..`` worked out and links kept."""
    return Path(os.path.abspath(name))


def is_left_out(content: bytes) -> bool:
    """True for a file with the line ``# gpurescue: off``."""
    return _LEFT_OUT.search(content) is not None
