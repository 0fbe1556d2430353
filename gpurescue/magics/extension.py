"""Loading and unloading: mirror images."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from gpurescue.errors import UsageError
from gpurescue.magics import plain, redefining, restoring
from gpurescue.magics.awaiting import AwaitMagics
from gpurescue.magics.commands import Commands
from gpurescue.magics.front import Front
from gpurescue.magics.guarding import CellGuard
from gpurescue.magics.keeping import GpuRescue, Keeper
from gpurescue.magics.leaving import Leaving
from gpurescue.magics.look import LookMagics
from gpurescue.magics.rendering import in_one_sentence
from gpurescue.magics.resilient import ResilientMagics
from gpurescue.magics.restore import RestoreMagics
from gpurescue.magics.resume import ResumeMagics
from gpurescue.magics.session import Session
from gpurescue.magics.shell import Shell
from gpurescue.recovery import loops, own
from gpurescue.source.folders import Folders
from gpurescue.source.hook import Hook
from gpurescue.source.loops import LOOP
from gpurescue.source.modules import Modules
from gpurescue.state import compiling
from gpurescue.state.device import TorchRuntime

MAGICS: tuple[type[Commands], ...] = (
    ResilientMagics,
    ResumeMagics,
    RestoreMagics,
    LookMagics,
)

_STALE = (
    "{} was edited after it was imported: its functions are not guarded until it is "
    "imported again (importlib.reload)."
)

_loaded: Extension | None = None


def load(ip: InteractiveShell) -> None:
    """Install everything into a shell."""
    global _loaded
    if _loaded is None:
        _loaded = Extension(ip)


def unload(_: InteractiveShell) -> None:
    """Take everything out again.

    Raises:
        UsageError: A run is alive.
    """
    global _loaded
    if _loaded is not None:
        with in_one_sentence():
            _loaded.close()
        _loaded = None


def current() -> Front:
    """The front of the shell that the extension is loaded in.

    Raises:
        UsageError: It is not loaded.
    """
    if _loaded is None:
        raise UsageError("gpurescue is not loaded; type %load_ext gpurescue first.")
    return _loaded.front


class Extension:
    """Everything that was put into a shell; ``close`` takes it out in reverse."""

    def __init__(self, ip: InteractiveShell) -> None:
        self._ip = ip
        self._undo = ExitStack()
        shell = Shell(ip)
        session = Session(shell.names, TorchRuntime())
        folders = Folders(shell.folders())
        modules = Modules(folders, lambda: session.alive is not None)
        self.front = Front(shell, session, modules, self._keeper(shell))
        self._undo.callback(self.front.close)
        self._watch(session)
        self._undo.callback(compiling.show(plain.without_guards))
        self._add_loop()
        self._undo.callback(plain.restore)
        guard = CellGuard(lambda: shell.flags, session)
        self._append(ip.ast_transformers, guard)
        self._append(ip.input_transformers_post, AwaitMagics(shell))
        self._add_hook("pre_run_cell", self._about_to_run)
        for kind in MAGICS:
            self._add_magics(kind(self.front))
        self._guard_modules(modules)
        settings = self.front.keeper.settings
        self._undo.callback(Leaving(session, lambda: settings.grace).close)
        with own.harmless("Nobody says that a run was killed."):
            restoring.tell(self.front)

    def close(self) -> None:
        """Undo it all, and give guarded functions their plain code back.

        Raises:
            UsageError: A run is alive.
        """
        job = self.front.session.alive
        if job is not None:
            raise UsageError(
                f"Run {job.run.number} is still {job.run.state.value}; finish it with "
                "%resume, or give it up with %resume --abandon, before unloading."
            )
        self._undo.close()

    def _watch(self, session: Session) -> None:
        redefining.watch(session)
        self._undo.callback(redefining.watch, None)

    def _add_loop(self) -> None:
        """Guarded loops look this name up.

        In the notebook's namespace, where code that is sent to other processes takes
        it along, and in ``builtins`` for the rest of a cell that does ``%reset``.
        """
        setattr(builtins, LOOP, loops.loop_iterator)
        self._undo.callback(_take_loop_away)
        self._refresh()
        self._undo.callback(self._ip.user_ns.pop, LOOP, None)
        self._undo.callback(self._ip.user_ns_hidden.pop, LOOP, None)

    def _keeper(self, shell: Shell) -> Keeper:
        settings = GpuRescue(parent=self._ip)
        self._append(self._ip.configurables, settings)
        return Keeper(shell, settings)

    def _guard_modules(self, modules: Modules) -> None:
        hook = Hook(modules)
        hook.install()
        self._undo.callback(hook.remove)
        for label in modules.adopt():
            self.front.shell.say(_STALE.format(label))

    def _refresh(self) -> None:
        for names in (self._ip.user_ns, self._ip.user_ns_hidden):
            names[LOOP] = loops.loop_iterator

    def _about_to_run(self, info: Any = None) -> None:
        self._refresh()
        self.front.shell.note_cell(str(getattr(info, "raw_cell", "") or ""))
        self.front.files.look()

    def _append(self, entries: list[Any], entry: Any) -> None:
        entries.append(entry)
        self._undo.callback(_remove, entries, entry)

    def _add_hook(self, event: str, hook: Callable[..., None]) -> None:
        self._ip.events.register(event, hook)
        self._undo.callback(self._ip.events.unregister, event, hook)
        # In front of %autoreload, which would reload what we carry over.
        hooks = self._ip.events.callbacks[event]
        hooks.insert(0, hooks.pop())

    def _add_magics(self, commands: Commands) -> None:
        manager = self._ip.magics_manager
        before = {
            kind: {name: manager.magics[kind].get(name) for name in names}
            for kind, names in commands.magics.items()
        }
        self._ip.register_magics(commands)
        self._undo.callback(_restore_magics, manager, type(commands).__name__, before)


def _remove(entries: list[Any], entry: Any) -> None:
    if entry in entries:
        entries.remove(entry)


def _take_loop_away() -> None:
    """Frames that run guarded code, in other threads or generators, still need it."""
    if not plain.is_running():
        builtins.__dict__.pop(LOOP, None)


def _restore_magics(
    manager: Any, registered: str, before: dict[str, dict[str, Any]]
) -> None:
    manager.registry.pop(registered, None)
    for kind, magics in before.items():
        for name, function in magics.items():
            if function is None:
                manager.magics[kind].pop(name, None)
            else:
                manager.magics[kind][name] = function
