"""Tensors of a program by name, such as ``model.layers.0.weight``.

Modules and optimizers are walked directly, which takes some 0.2 us per tensor; a pickle
takes 30. A name is the variable that leads there, and what follows is what the object
itself calls it: for a module its state dict's key, for an optimizer the name of the
parameter and the key of its state.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any

_DEPTH = 4
_MOST = 5_000  # objects that are neither tensors nor inside a module or an optimizer
_LEAVES = (
    *(str, bytes, bytearray, int, float, complex, bool, type(None), type),
    *(ModuleType, FunctionType, MethodType),
)

Named = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tree:
    """What variables lead to.

    Attributes:
        tensors: ``torch.Tensor`` by name.
        modules: Every ``torch.nn.Module`` with its name, inner ones too.
        optimizers: Every ``torch.optim.Optimizer`` with its name.
        owners: What a state of each optimizer belongs to: the optimizer and the
            parameter, by the name that all names of that state begin with.
        gradients: The parameter that each gradient belongs to, by the gradient's name.
        transient: Names of buffers that are in no state dict.
    """

    tensors: Named = field(default_factory=dict)
    modules: list[tuple[str, Any]] = field(default_factory=list)
    optimizers: list[tuple[str, Any]] = field(default_factory=list)
    owners: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    gradients: Named = field(default_factory=dict)
    transient: set[str] = field(default_factory=set)


GRADIENT = ".grad"


def named(variables: Mapping[str, object]) -> Named:
    """The tensors that variables lead to, in an order that does not change.

    A tensor with several names (tied weights) is there under each of those that a
    module gives it, and else under the first.

    Args:
        variables: By name.

    Returns:
        ``torch.Tensor`` by name; empty if torch was never imported.
    """
    return tree(variables).tensors


def tree(variables: Mapping[str, object]) -> Tree:
    """The tensors that variables lead to, and what they were found in.

    Args:
        variables: By name.

    Returns:
        Nothing of anything if torch was never imported.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return Tree()
    walk = _Walk(torch)
    walk.run(variables)
    return walk.tree


class _Walk:
    """Breadth first: the shortest name wins, and modules come before optimizers."""

    def __init__(self, torch: Any) -> None:
        self.tree = Tree()
        self.found = self.tree.tensors
        self._tensor, self._module = torch.Tensor, torch.nn.Module
        self._optimizer = torch.optim.Optimizer
        self._names: dict[int, str] = {}
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # an object that is made to be looked at: its id

    def run(self, variables: Mapping[str, object]) -> None:
        waiting = list(variables.items())
        for _ in range(_DEPTH + 1):
            following: list[tuple[str, object]] = []
            for name, value in waiting:
                following += self._visit(name, value)
            waiting = following
        for name, optimizer in self.tree.optimizers:
            self._of_optimizer(name, optimizer)
        for name, tensor in list(self.found.items()):
            if tensor.is_leaf and tensor.grad is not None:
                self._of_gradient(f"{name}{GRADIENT}", tensor)

    def _of_gradient(self, name: str, parameter: Any) -> None:
        if name not in self.found:
            self._names.setdefault(id(parameter.grad), name)
            self.found[name] = parameter.grad
            self.tree.gradients[name] = parameter

    def _visit(self, name: str, value: Any) -> list[tuple[str, object]]:
        if isinstance(value, self._tensor):
            self._add(name, value)
            return []
        is_known = id(value) in self._seen or len(self._seen) > _MOST
        if is_known or isinstance(value, _LEAVES):
            return []
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, self._module):
            self._of_module(name, value)
            return []
        if isinstance(value, self._optimizer):
            self.tree.optimizers.append((name, value))
            return []
        return list(_inside(name, value))

    def _add(self, name: str, tensor: Any) -> None:
        if id(tensor) not in self._names:
            self._names[id(tensor)] = name
            self.found[name] = tensor

    def _of_module(self, prefix: str, module: Any) -> None:
        # Not named_parameters(): that leaves out the second name of a tied weight.
        waiting, seen = [(prefix, module)], set()
        while waiting:
            name, inner = waiting.pop()
            if inner is None or id(inner) in seen:
                continue
            seen.add(id(inner))
            self._seen.add(id(inner))
            self.tree.modules.append((name, inner))
            for key, tensor in (*inner._parameters.items(), *inner._buffers.items()):
                if tensor is not None:
                    self._names.setdefault(id(tensor), f"{name}.{key}")
                    self.found[f"{name}.{key}"] = tensor
            hidden = inner._non_persistent_buffers_set
            self.tree.transient.update(f"{name}.{key}" for key in hidden)
            children = [(f"{name}.{k}", m) for k, m in inner._modules.items()]
            waiting += reversed(children)

    def _of_optimizer(self, prefix: str, optimizer: Any) -> None:
        groups = optimizer.param_groups
        for number, tensor in enumerate(p for group in groups for p in group["params"]):
            self._add(f"{prefix}.params.{number}", tensor)
            owner = f"{prefix}.{self._names[id(tensor)]}"
            self.tree.owners[owner] = (optimizer, tensor)
        for key, state in optimizer.state.items():
            owner = self._names.get(id(key)) or type(key).__name__
            self._of_state(f"{prefix}.{owner}", state)
        for number, group in enumerate(groups):
            rest = {k: v for k, v in group.items() if k != "params"}
            self._of_state(f"{prefix}.param_groups.{number}", rest)

    def _of_state(self, name: str, value: Any) -> None:
        """Values of an optimizer's state: tensors, or lists of them (LBFGS)."""
        if isinstance(value, self._tensor):
            self._add(name, value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                self._of_state(f"{name}.{key}", inner)
        elif isinstance(value, list | tuple):
            for number, inner in enumerate(value):
                self._of_state(f"{name}.{number}", inner)


def _inside(name: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        items: Any = list(value.items())
    elif isinstance(value, list | tuple):
        items = enumerate(value[:_MOST])
    else:
        items = _attributes(value).items()
    for key, inner in items:
        yield f"{name}.{key}", inner


def _attributes(value: object) -> dict[str, Any]:
    try:  # not vars(value): a lazy object would wake up
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return dict(found) if isinstance(found, dict) else {}
