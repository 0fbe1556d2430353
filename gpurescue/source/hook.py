"""The import hook that puts guards into the user's modules.

A finder in front of all others asks those for the module, as the import system would
do, and exchanges the loader of a plain file of the user's. Everything else is left as
the others found it: extension modules, archives, namespace packages, files that
another hook compiles. Nothing is read from or written to ``__pycache__``.

What cannot be compiled with guards keeps the loader that it had. So a syntax error is
the user's own, and no frame of ours is in its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType

from gpurescue.source.modules import Modules, plain_path


class Hook:
    """The hook, in place from ``install`` to ``remove``."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._finder = _Finder(modules)

    def install(self) -> None:
        """Guard what is imported from now on."""
        sys.meta_path.insert(0, self._finder)

    def remove(self) -> None:
        """Undo ``install``: what is loaded from now on is plain."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for loaded in self._modules:
            module = loaded.module()
            if module is not None:
                _take_back_loader(module)


class _Finder:
    """An entry of ``sys.meta_path``."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """What the finders behind this one find, with a loader of ours."""
        for finder in self._behind():
            find = getattr(finder, "find_spec", None)
            if find is None:
                return None  # of an old kind, that only the import system can ask
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                return self._guarded(spec)
        return None

    def _behind(self) -> list[object]:
        found: list[object] = list(sys.meta_path)
        return found[found.index(self) + 1 :] if self in found else []

    def _guarded(self, spec: ModuleSpec) -> ModuleSpec:
        path = plain_path(spec)
        if path is not None and self._modules.folders.holds(path):
            if self._modules.compiled(path) is not None:
                spec.loader = GuardingLoader(spec.name, path, self._modules)
        return spec


class GuardingLoader(SourceFileLoader):
    """Python's own loader, but for the code and where it is kept."""

    def __init__(self, name: str, path: str, modules: Modules) -> None:
        super().__init__(name, path)
        self._modules = modules

    def get_code(self, fullname: str) -> CodeType | None:
        """The code of the module, with guards in it."""
        path = str(self.path)
        version = self._modules.compiled(path)
        if version is None:
            return super().get_code(fullname)
        self._modules.loading(fullname, path, version)
        return version.code


def _take_back_loader(module: ModuleType) -> None:
    spec = module.__spec__
    if spec is not None and isinstance(spec.loader, GuardingLoader):
        spec.loader = SourceFileLoader(spec.name, str(spec.loader.path))
        module.__loader__ = spec.loader
