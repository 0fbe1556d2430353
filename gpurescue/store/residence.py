"""Checks tensors that are mapped and not read yet, before anything comes of them.

Their values are there at once, because the system reads what is touched. What is left
to do is to check them, in the order in which a program uses them: one thread goes
ahead, and hooks wait for it. A module waits for its own tensors before it computes, and
for those of all its submodules before its result is handed out: a weight may be read
without a call. An optimizer waits for everything. So nothing damaged gets out of a
forward, and nothing is trained on it.

Then the thread copies all into plain memory, and the first hook that finds that done
puts the copies in place of the mappings, on the thread that uses the tensors.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from gpurescue.errors import Damaged, StoreError
from gpurescue.store import mapping
from gpurescue.store.reading import Reader

_log = logging.getLogger(__name__)

_active: weakref.WeakSet[Residence] = weakref.WeakSet()


class Unit:
    """One storage of live tensors, on mapped bytes.

    Args:
        name: Of one of the tensors.
        storage: Its number in the checkpoint.
        nbytes: Its size.
        tensors: Those that use it, already on the mapped bytes.
    """

    def __init__(
        self, name: str, storage: int, nbytes: int, tensors: Sequence[Any]
    ) -> None:
        self.name, self.storage, self.nbytes = name, storage, nbytes
        self.ids: frozenset[int] = frozenset(map(id, tensors))
        self.is_checked = self.is_settled = False
        self._copy: mapping.Copy | None = None
        self.problem: str | None = None
        self.lock = threading.Lock()
        self._address: int = tensors[0].untyped_storage().data_ptr()
        self._tensors = [weakref.ref(tensor) for tensor in tensors]

    def when_gone(self, call: Any) -> None:
        """Have something called when one of the tensors is deleted."""
        self._tensors = [weakref.ref(ref(), call) for ref in self._tensors]

    def is_used(self) -> bool:
        """True if one of the tensors is still there."""
        return any(ref() is not None for ref in self._tensors)

    def is_open(self) -> bool:
        """True if it is not known to be good, and there is somebody to use it."""
        return not self.is_checked and self.is_used()

    def copy(self) -> None:
        """Make the copy that is going to be the program's own, ahead of time."""
        memory = self._memory()
        with self.lock, contextlib.suppress(OSError):
            if memory is not None and self._copy is None and not self.is_settled:
                self._copy = mapping.Copy(self._address, self.nbytes)

    def settle(self) -> None:
        """Make the memory the program's own; nobody may write to it meanwhile."""
        memory = self._memory()
        self.copy()
        with self.lock:
            if memory is not None and self._copy is not None:
                self._copy.put()
            self._copy, self.is_settled = None, True

    def _memory(self) -> Any:
        """The mapped storage, if a tensor still uses it; held, so that it stays."""
        for ref in self._tensors:
            tensor = ref()
            found = None if tensor is None else tensor.untyped_storage()
            if found is not None and found.data_ptr() == self._address:
                return found
        return None

    def check(self, reader: Reader) -> None:
        """Read and check the bytes, once.

        Raises:
            Damaged: They are not those that were written.
        """
        if self.is_checked:
            return
        with self.lock:
            if not (self.is_checked or self.problem):
                try:
                    reader.check(self.storage)
                    self.is_checked = True
                except StoreError as error:
                    self.problem = f"{self.name}: {error}"
        if self.problem and self.is_open():
            raise Damaged(f"{self.problem}. Restore another checkpoint.")


class Residence:
    """Sees to it that what was restored is checked before it is used.

    Args:
        reader: Of the checkpoint.
        units: In the order of use.
        modules: Those that a forward may begin with.
        ids: Of all tensors that were restored, and of those that state belongs to: an
            optimizer that has none of them is no concern of ours.
    """

    def __init__(
        self,
        reader: Reader,
        units: Sequence[Unit],
        modules: Iterable[Any],
        ids: set[int],
    ) -> None:
        self._ids = ids
        self._reader, self._units, self._process = reader, units, os.getpid()
        self._hook = f"gpurescue-restore-{id(self)}"
        self._is_read = self._is_settled = False
        self._lock = threading.Lock()
        self._called: set[int] = set()
        self._owned: dict[int, list[Unit]] = {}
        self._below: dict[int, list[Unit]] = {}
        by_tensor = {id: unit for unit in units for id in unit.ids}
        for module in modules:
            self._owned[id(module)] = _units_of([module], by_tensor)
            self._below[id(module)] = _units_of(module.modules(), by_tensor)
        self._thread = threading.Thread(
            target=self._run, name="gpurescue-restore", daemon=True
        )

    def start(self) -> None:
        """Set hooks, and begin."""
        hooks, steps = _hooks()
        # Not registered: a handle would take a number, and hooks that the program
        # makes later would have other numbers than without us.
        hooks._global_forward_pre_hooks[self._hook] = self._before_forward
        hooks._global_forward_hooks[self._hook] = self._after_forward
        steps[self._hook] = self._before_step
        for unit in self._units:
            unit.when_gone(self._on_deletion)
        _active.add(self)
        self._thread.start()

    def is_over(self) -> bool:
        """True if there is nothing left to wait for."""
        return not any(unit.is_open() for unit in self._units)

    def wait(self) -> None:
        """Check all that is not checked yet, and be done with the files.

        Raises:
            Damaged: A tensor is not what was written.
        """
        self._check(self._units)
        self._settle()

    def _settle(self) -> None:
        """On the thread that uses the tensors, between two uses."""
        with self._lock:
            if not self._is_settled:
                for unit in self._units:
                    unit.settle()
                self._is_settled = True
        self._leave(is_between=True)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def give_up(self, ids: set[int]) -> None:
        """Do not wait for tensors that get other values."""
        for unit in self._units:
            unit.is_checked |= unit.ids <= ids

    def _check(self, units: Iterable[Unit]) -> None:
        for unit in units:
            unit.check(self._reader)

    def _before_forward(self, module: Any, _: object) -> None:
        if os.getpid() != self._process:  # a fork has no thread, and may have its lock
            return
        if id(module) in self._called and self._is_read and self.is_over():
            self._settle()  # not in the first forward: somebody waits for that
        self._called.add(id(module))
        self._check(self._owned.get(id(module), ()))

    def _after_forward(self, module: Any, _: object, __: object) -> None:
        if os.getpid() == self._process:
            self._check(self._below.get(id(module), ()))

    def _before_step(self, optimizer: Any, *_: object) -> None:
        groups = optimizer.param_groups
        if os.getpid() == self._process and any(
            id(parameter) in self._ids
            for group in groups
            for parameter in group["params"]
        ):
            self.wait()

    def _run(self) -> None:
        for unit in self._units:
            try:
                self._check([unit])
            except Damaged as error:
                _log.error("%s", error)
        for unit in self._units:
            unit.copy()
        self._is_read = True
        self._on_deletion(None)

    def _on_deletion(self, _: object) -> None:
        if self._is_read and not any(unit.is_used() for unit in self._units):
            self._leave()

    def _leave(self, *, is_between: bool = False) -> None:
        hooks, steps = _hooks()
        hooks._global_forward_pre_hooks.pop(self._hook, None)
        hooks._global_forward_hooks.pop(self._hook, None)
        # Somebody may be going through it. The last one may go while it is called, and
        # the only one at any time: the iterator knows by then that it is at its end
        # (CPython, odictiter_nextkey). Else ours stays until somebody waits.
        keys = list(steps)
        if keys == [self._hook] or (is_between and keys[-1:] == [self._hook]):
            del steps[self._hook]
        _active.discard(self)


def give_up(tensors: Iterable[Any]) -> None:
    """Let go of these tensors, wherever they are waited for: they get other values."""
    ids = {id(tensor) for tensor in tensors}
    for residence in list(_active):
        residence.give_up(ids)


def _hooks() -> tuple[Any, dict[Any, Any]]:
    optim = sys.modules["torch.optim.optimizer"]
    return sys.modules["torch.nn.modules.module"], optim._global_optimizer_pre_hooks


def _units_of(modules: Iterable[Any], by_tensor: dict[int, Unit]) -> list[Unit]:
    found = {}
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if id(tensor) in by_tensor:
                found[id(tensor)] = by_tensor[id(tensor)]
    return list(dict.fromkeys(found.values()))
