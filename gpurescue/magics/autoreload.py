"""IPython's ``%autoreload`` beside us: what we have carried, it need not reload."""

from __future__ import annotations

import contextlib
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from gpurescue.source.modules import Loaded


def tell(ip: InteractiveShell, loaded: Loaded) -> None:
    """Let ``%autoreload`` know that a module is as its file says."""
    magics: Any = ip.magics_manager.registry.get("AutoreloadMagics")
    with contextlib.suppress(AttributeError):
        reloader = magics._reloader
        _, mtime = reloader.filename_and_mtime(loaded.module())
        reloader.modules_mtimes[loaded.name] = mtime
        source = loaded.version.unit.source
        reloader.deduper_reloader.source_by_modname[loaded.name] = source
