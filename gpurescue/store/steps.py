"""Who is going to write before others: optimizers, and what they write to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_HOOK = "gpurescue-snapshot"


def watch(hook: Callable[..., None]) -> None:
    """Have a hook called before an optimizer writes."""
    optim = sys.modules.get("torch.optim.optimizer")
    if optim is not None:
        # Not registered: a handle would take a number, and hooks that the program makes
        # later would have other numbers than without us.
        optim._global_optimizer_pre_hooks[_HOOK] = hook


def unwatch(hook: Callable[..., None]) -> None:
    """Not to be told any more."""
    optim = sys.modules.get("torch.optim.optimizer")
    if optim is not None and optim._global_optimizer_pre_hooks.get(_HOOK) == hook:
        optim._global_optimizer_pre_hooks.pop(_HOOK, None)


def storages_of(optimizer: Any) -> list[Any]:
    """The untyped storages that a step of an optimizer may write."""
    torch = sys.modules["torch"]
    found: list[Any] = []
    waiting: list[Any] = [group["params"] for group in optimizer.param_groups]
    waiting += optimizer.state.values()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found.append(value.untyped_storage())
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return found
