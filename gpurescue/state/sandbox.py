"""A block of statements that only look: what they change is put back behind them.

Statements that are added to a recorded run must not bend it. Even an innocent one does:
to iterate a DataLoader draws from the random stream that shuffles and drops out. So
random streams, generators, modes of modules, parameters, buffers, gradients, settings
of torch, learning rates and the state of schedulers are as they were before it.
Attributes of the user's own objects, and files, are not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from gpurescue.state import modes
from gpurescue.state.finding import find
from gpurescue.state.journal import read_generator, read_groups, read_plain
from gpurescue.state.streams import Restore, Streams


class Sandbox:
    """Use as ``with``; what it raises goes on, with everything put back.

    Args:
        roots: Variables that lead to all of a program's training state.
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self._found = find(roots)
        self._restores: list[Restore] = []

    def __enter__(self) -> Sandbox:
        found, self._restores = self._found, [Streams().read()]
        self._restores += [read_plain(x) for x in (*found.schedulers, *found.scalers)]
        self._restores += [read_groups(optimizer) for optimizer in found.optimizers]
        self._restores += [read_generator(stream) for stream in found.generators]
        settings = modes.read()
        self._restores.append(lambda: modes.write(settings))
        inner = {id(m): m for module in found.modules for m in module.modules()}
        self._restores += [_read_mode(module) for module in inner.values()]
        self._restores += [_read_tensor(x) for x in _tensors(found)]
        return self

    def __exit__(self, *_: object) -> None:
        for restore in self._restores:
            restore()
        self._restores = []


def _tensors(found: Any) -> list[Any]:
    """Parameters, buffers and what optimizers keep, each once."""
    known: dict[int, Any] = {}
    for module in found.modules:
        for tensor in (*module.parameters(), *module.buffers()):
            known[id(tensor)] = tensor
    for optimizer in found.optimizers:
        for group in optimizer.param_groups:
            known |= {id(p): p for p in group["params"]}
        for state in optimizer.state.values():
            known |= {id(x): x for x in state.values() if hasattr(x, "data_ptr")}
    return list(known.values())


def _read_mode(module: Any) -> Restore:
    training = module.training
    return lambda: object.__setattr__(module, "training", training)


def _read_tensor(tensor: Any) -> Restore:
    """Its values, and its gradient; neither is written to if it is as it was."""
    values, gradient, wants = tensor.detach().clone(), tensor.grad, tensor.requires_grad
    before = None if gradient is None else gradient.detach().clone()

    def restore() -> None:
        _put_back(tensor, values)
        if tensor.is_leaf and tensor.requires_grad != wants:
            tensor.requires_grad_(wants)
        if tensor.grad is not gradient:
            tensor.grad = gradient
        if gradient is not None:
            _put_back(gradient, before)

    return restore


def _put_back(tensor: Any, values: Any) -> None:
    """A backward pass to come would refuse a tensor that was written to for nothing."""
    torch = sys.modules["torch"]
    if not _is_same(tensor.detach(), values):
        with torch.no_grad():
            tensor.copy_(values)


def _is_same(one: Any, other: Any) -> bool:
    """To the last bit: what is no number is not equal to itself otherwise."""
    torch = sys.modules["torch"]
    if torch.equal(one, other):
        return True
    return bool(torch.equal(torch.isnan(one), torch.isnan(other))) and bool(
        torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
    )
