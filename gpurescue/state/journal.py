"""What the top of a round of a training loop was, so that the round can run again.

Cheap things are read at every top that is marked: random streams, buffers of modules
(BatchNorm moves them in its forward), which gradients there were, learning rates.
Parameters and optimizer state are many bytes. They are copied when an optimizer is
about to write them, and only if the user has asked for it; else a round in which an
optimizer has stepped cannot be taken back, and says so.
"""

from __future__ import annotations

import copy
import logging
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from gpurescue.state.finding import Found, find
from gpurescue.state.streams import Restore, Streams

_log = logging.getLogger(__name__)

_HOOK = "gpurescue"
_MAX_BUFFER = 2**20  # bytes; larger ones are masks and tables, and do not move


class Journal:
    """Marks tops of rounds.

    Args:
        keeps_parameters: True to copy what optimizers are about to write.
    """

    def __init__(self, *, keeps_parameters: bool = False) -> None:
        self.keeps_parameters = keeps_parameters
        self.newest: Mark | None = None
        self._streams = Streams()
        self._known = _Known(Found())

    def find(self, roots: Iterable[object]) -> None:
        """Look for training state: at the beginning of a loop."""
        self._known = _Known(find(roots))

    def mark(self) -> Mark:
        """Read what the round that begins now may change."""
        self._listen()
        self.newest = Mark(self, self._known, self._streams.read())
        return self.newest

    def _listen(self) -> None:
        optim = sys.modules.get("torch.optim.optimizer")
        if optim is not None:
            # Not registered: a handle would take a number, and hooks that the program
            # makes later would have other numbers than without us.
            optim._global_optimizer_pre_hooks[_HOOK] = self._before_step

    def _before_step(self, optimizer: Any, args: object, kwargs: object) -> None:
        steps = self.newest.steps if self.newest is not None else {}
        if id(optimizer) not in steps:
            steps[id(optimizer)] = self._step(optimizer)
        if not self.keeps_parameters:
            _stop_listening()  # the first step has told all there is to know

    def _step(self, optimizer: Any) -> _Step:
        try:
            return _Step(optimizer, is_kept=self.keeps_parameters)
        except Exception:  # noqa: BLE001 - such as no memory for a copy
            _log.warning("Parameters were not kept for --iteration.", exc_info=True)
            return _Step(optimizer, is_kept=False)

    def rest(self) -> None:
        """Watch no optimizers, and keep nothing."""
        optim = sys.modules.get("torch.optim.optimizer")
        if optim is not None:
            optim._global_optimizer_pre_hooks.pop(_HOOK, None)
        self.newest = None


def _stop_listening() -> None:
    """Leave the hooks of optimizers while they are being called.

    The last of an ``OrderedDict`` may go while it is iterated over: the iterator knows
    by then that it is at its end (CPython, ``odictiter_nextkey``).
    """
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    if isinstance(hooks, OrderedDict) and next(reversed(hooks), None) == _HOOK:
        del hooks[_HOOK]


class _Step:
    """What an optimizer was about to write in a round for the first time."""

    def __init__(self, optimizer: Any, *, is_kept: bool) -> None:
        self.optimizer = optimizer
        self.is_kept = is_kept
        self._parameters: list[tuple[Any, Any]] = []
        self._state: dict[Any, Any] = {}
        if is_kept:
            self._parameters = [(p, p.detach().clone()) for p in _owned(optimizer)]
            self._state = {k: _copied(v) for k, v in optimizer.state.items()}

    def restore(self) -> None:
        torch = sys.modules["torch"]
        with torch.no_grad():
            for parameter, before in self._parameters:
                parameter.copy_(before)
        for key in [k for k in self.optimizer.state if k not in self._state]:
            del self.optimizer.state[key]
        self.optimizer.state.update(self._state)


def _copied(value: Any) -> Any:
    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_copied(v) for v in value]
    return copy.copy(value)


def _owned(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class _Gradients:
    """The gradients of parameters, held weakly, and the versions of both."""

    def __init__(self, parameters: list[Any]) -> None:
        self.parameters = parameters
        self.versions = [p._version for p in parameters]
        found = [p.grad for p in parameters]
        self._refs = [None if g is None else weakref.ref(g) for g in found]
        self._before = [0 if g is None else g._version for g in found]

    def are_lost(self) -> bool:
        """True if one was added to: its old values are gone."""
        for parameter, ref, version in zip(
            self.parameters, self._refs, self._before, strict=True
        ):
            found = parameter.grad
            is_same = found is not None and ref is not None and ref() is found
            if is_same and found._version != version:
                return True
        return False

    def restore(self) -> None:
        for parameter, ref in zip(self.parameters, self._refs, strict=True):
            before = None if ref is None else ref()
            if parameter.grad is not before:
                parameter.grad = before


class _Known:
    """What was found at the beginning of a loop, made ready to be read often."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.ids = {id(value) for value in found.everything()}
        modules = found.modules
        self.parameters = [
            p
            for p in _once(p for module in modules for p in module.parameters())
            if p.requires_grad and not p.is_inference()
        ]
        buffers = _once(b for module in modules for b in module.buffers())
        self.small = [b for b in buffers if b.nbytes <= _MAX_BUFFER]
        self.large = [
            b for b in buffers if b.nbytes > _MAX_BUFFER and not b.is_inference()
        ]
        self.copies = [b.detach().clone() for b in self.small]


def _once(values: Iterable[Any]) -> list[Any]:
    return list({id(value): value for value in values}.values())


class Mark:
    """The top of one round: a ``RoundMark``."""

    def __init__(self, journal: Journal, known: _Known, streams: Restore) -> None:
        self.steps: dict[int, _Step] = {}
        self._journal = journal
        self._known = known
        self._streams = streams
        self._gradients = _Gradients(known.parameters)
        self._large = [buffer._version for buffer in known.large]
        _copy(known.copies, known.small)  # nobody goes back to an older mark
        found = known.found
        self._restores = [read_plain(x) for x in (*found.schedulers, *found.scalers)]
        self._restores += [read_groups(optimizer) for optimizer in found.optimizers]
        self._restores += [read_generator(stream) for stream in found.generators]

    def problem(self, roots: Iterable[object]) -> str | None:
        """Why the round cannot be taken back; None if it can.

        Args:
            roots: The variables now: what they lead to must have been there then.
        """
        if self is not self._journal.newest:
            return "other rounds have begun since"
        for step in self.steps.values():
            if not step.is_kept:
                return (
                    f"{type(step.optimizer).__name__}.step has moved the parameters, "
                    "whose old values only %%resilient --journal keeps"
                )
        moved = self._moved()
        if moved is not None:
            return moved
        for value in find(roots).everything():
            if id(value) not in self._known.ids:
                return f"a {type(value).__name__} was made in this round"
        return None

    def _moved(self) -> str | None:
        if self._gradients.are_lost():
            return "gradients were added to those of the round before"
        covered = {id(p) for s in self.steps.values() for p in _owned(s.optimizer)}
        parameters = zip(
            self._gradients.parameters, self._gradients.versions, strict=True
        )
        if any(p._version != v for p, v in parameters if id(p) not in covered):
            return "parameters were written outside of an optimizer"
        if self._large != [buffer._version for buffer in self._known.large]:
            return "a large buffer of a module was written"
        return None

    def apply(self) -> None:
        """Put everything back."""
        for step in self.steps.values():
            step.restore()
        self.steps = {}
        _copy(self._known.small, self._known.copies)
        self._gradients.restore()
        for restore in self._restores:
            restore()
        self._streams()


def _copy(to: list[Any], values: list[Any]) -> None:
    if to:
        torch = sys.modules["torch"]
        with torch.no_grad():
            torch._foreach_copy_(to, values)


def read_plain(value: Any) -> Restore:
    """The attributes of a scheduler or a scaler, which are plain values."""
    attributes = {
        name: _copied(x) if isinstance(x, list | dict) or _is_tensor(x) else x
        for name, x in vars(value).items()
        if name not in {"optimizer", "_schedulers", "lr_lambdas"}
    }
    return lambda: vars(value).update(
        {name: _copied(x) for name, x in attributes.items()}
    )


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def read_groups(optimizer: Any) -> Restore:
    """Learning rates and the like of an optimizer."""
    before = [
        {k: _copied(v) for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]

    def restore() -> None:
        for group, values in zip(optimizer.param_groups, before, strict=False):
            group.update(values)

    return restore


def read_generator(stream: Any) -> Restore:
    """Where a generator of torch or NumPy stands."""
    if hasattr(stream, "bit_generator"):
        state = stream.bit_generator.state
        return lambda: setattr(stream.bit_generator, "state", state)
    state = stream.get_state()
    put_back: Callable[[Any], Any] = stream.set_state
    return lambda: put_back(state)
