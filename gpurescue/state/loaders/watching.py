"""What is put into ``torch.utils.data`` while a run is active, and taken out again.

What every batch goes through is the same code as before, but for a guard that costs
nothing until it is taken. All else is asked once, when an iterator is made.
"""

from __future__ import annotations

import functools
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from gpurescue.state.loaders import crew as crews
from gpurescue.state.loaders import drawn, single
from gpurescue.state.loaders.crew import CREW
from gpurescue.state.loaders.drawn import Beginning
from gpurescue.state.loaders.importing import when_imported

_log = logging.getLogger(__name__)

MODULE = "torch.utils.data.dataloader"

Hold = Callable[[FunctionType], FunctionType | None]

_lock = threading.Lock()
_active: _Watching | None = None


def watch(hold: Hold) -> Callable[[], None]:
    """Watch the iterators of all DataLoaders; the result ends it.

    Args:
        hold: Gives a function whose failure holds the run, and that can be asked again.
    """
    global _active
    with _lock:
        if _active is None:
            _active = _Watching(hold)
        watching = _active
        watching.num_runs += 1
    left = ExitStack()
    left.callback(_leave, watching)
    return left.close


@contextmanager
def watched() -> Iterator[None]:
    """Iterators that are made within have what is noted of those of a run."""
    leave = watch(lambda function: None)
    try:
        yield
    finally:
        leave()


def current() -> object:
    """What is in place now; a crew of anything else is left alone."""
    return _active


def _leave(watching: _Watching) -> None:
    global _active
    with _lock:
        watching.num_runs -= 1
        if not watching.num_runs:
            _active = None
            watching.undo.close()


@dataclass(frozen=True, slots=True)
class Begun:
    """A DataLoader that an iterator was asked of, and the streams before that."""

    loader: weakref.ref[Any]
    before: Beginning


_this_thread = threading.local()


def begun(loader: Any) -> Begun | None:
    """The note of ``loader``, if it was the last in this thread that was asked."""
    found = getattr(_this_thread, "begun", None)
    return found if found is not None and found.loader() is loader else None


class _Watching:
    """What is in place, for as long as there are runs."""

    def __init__(self, hold: Hold) -> None:
        self.num_runs = 0
        self.elsewhere: weakref.WeakSet[Any] = weakref.WeakSet()
        self.undo = ExitStack()
        self._hold = hold
        self.undo.callback(when_imported(MODULE, self.install))

    def install(self, module: ModuleType) -> None:
        """Put everything in its place; a torch that is built otherwise goes without."""
        try:
            self._install(module)
        except Exception:  # noqa: BLE001
            _log.warning("A DataLoader that fails will not be held.", exc_info=True)

    def _install(self, module: ModuleType) -> None:
        base, single_, multi = (
            getattr(module, f"_{name}DataLoaderIter")
            for name in ("Base", "SingleProcess", "MultiProcessing")
        )
        self._replace(base, "__next__", self._hold)
        self._replace(base, "__init__", _keeping_seed)
        self._replace(base, "_reset", self._remembering)
        self._replace(single_, "__init__", _noting_start)
        self._replace(multi, "__init__", self._hiring)
        self._replace(multi, "_reset", _taking_turns)
        self._replace(module.DataLoader, "__iter__", _noting_streams)
        signals = module._utils.signal_handling
        self._replace(signals, "_error_if_any_worker_fails", self._sparing)

    def _replace(
        self,
        owner: type | ModuleType,
        name: str,
        make: Callable[[Any], FunctionType | None],
    ) -> None:
        plain = vars(owner)[name]
        made = make(plain)
        if made is not None:
            setattr(owner, name, made)
            self.undo.callback(setattr, owner, name, plain)

    def _hiring(self, plain: Any) -> Any:
        """The workers of an iterator get an entrance of ours."""

        @functools.wraps(plain)
        def __init__(iterator: Any, loader: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                self.elsewhere.add(iterator)
            if CREW not in vars(iterator) and (
                crew := _tried(crews.hired, loader, self)
            ):
                setattr(iterator, CREW, crew)
                loader = crew.stand_in()
            plain(iterator, loader)

        return __init__

    def _sparing(self, plain: Any) -> Any:
        """The main thread is not told of workers that are none of its own.

        torch asks in a signal handler, which runs there, and what it raises would end
        the kernel's loop. The thread that waits for a worker finds out by itself.
        """

        @functools.wraps(plain)
        def _error_if_any_worker_fails() -> None:
            try:
                plain()
            except RuntimeError as error:
                if not self._is_elsewhere(str(error)):
                    raise

        return _error_if_any_worker_fails

    def _is_elsewhere(self, text: str) -> bool:
        pids = {
            str(worker.pid)
            for iterator in list(self.elsewhere)
            for worker in getattr(iterator, "_workers", ())
        }
        return bool(pids.intersection(re.findall(r"\d+", text)))

    def _remembering(self, plain: Any) -> Any:
        """An epoch begins: what the sampler gives is remembered from now on."""

        @functools.wraps(plain)
        def _reset(iterator: Any, *arguments: Any, **options: Any) -> None:
            crew = vars(iterator).get(CREW)
            if crew is None or crew.base_seed is not None:
                plain(iterator, *arguments, **options)
            elif crew.run is not self:  # it may have begun epochs that nobody saw
                delattr(iterator, CREW)
                plain(iterator, *arguments, **options)
            else:
                beginning = _tried(crew.beginning, iterator)
                plain(iterator, *arguments, **options)
                crew.begin_epoch(iterator, beginning)

        return _reset


def _taking_turns(plain: Any) -> Any:
    """An epoch has begun, and all workers have work."""

    @functools.wraps(plain)
    def _reset(iterator: Any, *arguments: Any, **options: Any) -> None:
        plain(iterator, *arguments, **options)
        crew = vars(iterator).get(CREW)
        if crew is not None:
            crew.take_turns(iterator)

    return _reset


def _keeping_seed(plain: Any) -> Any:
    """New workers in the place of others are seeded as those were."""

    @functools.wraps(plain)
    def __init__(iterator: Any, loader: Any) -> None:
        plain(iterator, loader)
        crew = vars(iterator).get(CREW)
        if crew is not None and crew.base_seed is not None:
            iterator._base_seed = crew.base_seed

    return __init__


def _noting_start(plain: Any) -> Any:
    @functools.wraps(plain)
    def __init__(iterator: Any, loader: Any) -> None:
        plain(iterator, loader)
        _tried(_begun, iterator, loader)

    return __init__


def _begun(iterator: Any, loader: Any) -> None:
    noted = begun(loader)
    before = noted.before if noted is not None else _begin(loader).before
    single.begun(iterator, loader, before)


def _noting_streams(plain: Any) -> Any:
    """An iterator that cannot be made is asked for again, with the same streams."""

    @functools.wraps(plain)
    def __iter__(loader: Any) -> Any:
        _this_thread.begun = _tried(_begin, loader)
        made = plain(loader)
        _this_thread.begun = None
        return made

    return __iter__


def _begin(loader: Any) -> Begun:
    found = drawn.beginning(loader._index_sampler, loader.generator)
    return Begun(weakref.ref(loader), found)


def _tried(step: Callable[..., Any], *arguments: Any) -> Any:
    """Whatever goes wrong here, the DataLoader works as ever."""
    try:
        return step(*arguments)
    except Exception:  # noqa: BLE001
        _log.warning("A DataLoader is not watched.", exc_info=True)
        return None
