"""A backward pass that failed: whether the engine had begun to run it.

Before it begins, the engine checks what it was given. Once it runs, it frees what the
graph has saved and adds to gradients, so the pass cannot run again.
"""

from __future__ import annotations

import sys
from types import TracebackType

from gpurescue.protocols import Rollback
from gpurescue.state.again import Again, Refused
from gpurescue.state.halfway.frames import Dead, is_of

_CHECKS = (
    "does not require grad and does not have a grad_fn",
    "One of the differentiated Tensors does not require grad",
)
_REFUSED = (
    "the backward pass had begun, and cannot run again; %resume --iteration goes "
    "back to the top of the round"
)


def rollback(dead: Dead, error: BaseException) -> Rollback | None:
    """The answer to a pass that failed; None if none did."""
    if any(_is_functional(entry) for entry in dead):
        return None  # makes its own graph each time
    autograd = sys.modules["torch"].autograd
    engine = autograd.graph._engine_run_backward.__code__
    passes = {autograd.backward.__code__, autograd.grad.__code__}
    codes = [entry.tb_frame.f_code for entry in dead]
    if engine in codes and not (codes[-1] is engine and _is_check(error)):
        return Refused(_REFUSED)
    if engine in codes or passes & set(codes):
        return Again("", _nothing, gives_again=False)
    return None


def _is_functional(entry: TracebackType) -> bool:
    return is_of(entry, "torch._functorch") or is_of(entry, "torch.autograd.functional")


def _is_check(error: BaseException) -> bool:
    """True of what the engine raises before it runs anything."""
    said = str(error.args[0]) if len(error.args) == 1 else ""
    return type(error) is RuntimeError and any(check in said for check in _CHECKS)


def _nothing() -> None:
    """Nothing had begun."""
