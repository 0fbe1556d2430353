"""Runs that fail once inside of torch and are resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import harness
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpurescue.errors import CannotResume
from gpurescue.recovery.engine import Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Action, Restart
from gpurescue.state.device import TorchRuntime

NEVER = 10**9


class Fault(Exception):
    """The planted failure."""


class AtOperation(TorchDispatchMode):
    """Fails in front of the n-th operation on tensors."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.is_on = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.left -= 1
        if self.left == -1:
            raise Fault(str(function))
        return function(*args, **(kwargs or {}))

    def start(self) -> None:
        self.is_on = True
        self.__enter__()

    def stop(self) -> None:
        if self.is_on:
            self.is_on = False
            self.__exit__(None, None, None)


@dataclass
class Trial:
    """A run that is resumed whenever it fails.

    Attributes:
        names: Variables of the notebook.
        body: What runs.
        mend: Called while it is held.
        fault: Where it fails, between ``start()`` and ``stop()`` in the body.
    """

    names: dict[str, Any]
    body: str
    mend: Callable[[], None] = lambda: None
    fault: AtOperation | None = None
    notes: list[str] = field(default_factory=list)
    refusal: str = ""
    num_held: int = 0
    last_error: str = ""

    def play(self) -> State:
        """Run it to its end, or to the refusal."""
        book = harness.Notebook()
        book.names |= self.names
        if self.fault is not None:
            book.names |= {"start": self.fault.start, "stop": self.fault.stop}
        hooks = Hooks(on_failure=self._failed)
        run = book.start(self.body, hooks=hooks)
        while run.wait(20) is State.SUSPENDED and self._go_on(run):
            pass
        if run.state is State.FAILED:
            assert run.error is not None
            raise run.error
        return run.state

    def _failed(self, error: BaseException, frame: FrameType) -> Any:
        if self.fault is not None:
            self.fault.stop()
        return TorchRuntime().rollbacks(error, frame)

    def _go_on(self, run: Run) -> bool:
        self.num_held += 1
        assert run.suspension is not None
        self.last_error = run.suspension.traceback_text
        assert self.num_held < 4, self.last_error
        self.mend()
        try:
            if isinstance(run.suspension.error, CannotResume):
                raise run.suspension.error
            self.notes += run.resume(Restart()).notes
        except CannotResume as error:
            self.refusal = str(error)
            run.resume(Restart(action=Action.ABANDON))
            assert run.wait(30) is State.ABANDONED
            return False
        return True


def plain(value: Any) -> Any:
    """What can be compared: of tensors, containers and what objects hold."""
    if isinstance(value, torch.Tensor):
        return value.detach().to_dense().tolist(), str(value.dtype)
    if isinstance(value, dict):
        kept = [key for key in value if key not in {"params", "optimizer"}]
        return {str(key): plain(value[key]) for key in kept}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if callable(value) else value


def state_of(parameters: list[Any], *others: Any) -> Any:
    """Parameters, gradients, and what optimizers and others hold about them."""
    found: list[Any] = [plain(parameters), [plain(p.grad) for p in parameters]]
    for other in others:
        if isinstance(other, torch.optim.Optimizer):
            found.append([plain(other.state[p]) for p in parameters])
            found.append(plain(other.param_groups))
        else:
            found.append(plain(vars(other)))
    return found
