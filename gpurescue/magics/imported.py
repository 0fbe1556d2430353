"""The user's modules of a run: imported again, with what they had in themselves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.source import cells, changes
from gpurescue.source.changes import Kind
from gpurescue.source.modules import Loaded, Modules
from gpurescue.state import belongings


def modules_of(modules: Modules) -> dict[str, ModuleType]:
    """Those that are what an import finds, by name."""
    found = {loaded.name: loaded.module() for loaded in modules}
    return {n: m for n, m in found.items() if m is not None and sys.modules.get(n) is m}


class Imported:
    """Gives the modules of a run what they had in themselves.

    Args:
        modules: The user's, as they are loaded here.
        names: Of those of the run.
        sources: Names of the sources that the run had.
        has_lost: True if something of the run could not be kept.

    Attributes:
        unkept: The ways to what stays as the import has made it, since it could not be
            kept.
        unmade: Why code of the run could not be made by this version of Python.
    """

    def __init__(
        self,
        modules: Modules,
        names: Iterable[str],
        sources: Iterable[str],
        *,
        has_lost: bool,
    ) -> None:
        self.unkept: list[str] = []
        self.unmade: list[str] = []
        self._modules = modules
        self._names = list(names)
        self._sources = list(sources)
        self._has_lost = has_lost
        self._given = belongings.Given()

    def load(self) -> None:
        """Import all of them.

        Raises:
            CannotResume: One cannot be imported.
        """
        for name in self._names:
            _module(name)

    def fill(self, found: Mapping[str, Any], unmade: list[str]) -> None:
        """Give each what it had.

        Args:
            found: The variables of the run.
            unmade: Why code of it could not be made by this version of Python.
        """
        self.unmade = unmade
        values = belongings.modules_of(found)
        loaded = {one.name: one for one in self._modules}
        for name in self._names:
            module = sys.modules[name]
            lost = belongings.unkept(values[name]) if self._has_lost else set()
            self.unkept += sorted(f"{name}.{path}" for path in lost)
            edited = self._edited(loaded[name]) if name in loaded else set()
            own = {path for path in values[name] if path.partition(".")[0] in edited}
            self._given.give(module, values[name], lost | own)

    def take_back(self) -> None:
        """Have modules that were there before as they were."""
        self._given.take_back()

    def _edited(self, loaded: Loaded) -> set[str]:
        """Variables that the file says something else of than when the run had it."""
        names = [n for n in self._sources if cells.path_of(n) == loaded.path]
        then = [unit for unit in map(cells.unit, names) if unit is not None]
        now = loaded.version.unit
        if not then or now.filename in names:
            return set()
        found = changes.changes(then[-1].tree.body, now.tree.body)
        return {n for c in found if c.kind is not Kind.BODIES for n in c.names}


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever its code may raise
        raise CannotResume(
            f"The module {name} of the run cannot be imported: {error!r}."
        ) from error
