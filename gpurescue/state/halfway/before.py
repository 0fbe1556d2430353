"""What an optimizer had when its step failed, and whether it still has that."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.halfway.ledger import place, tensors

Role = tuple[int, object]  # number of the parameter, and what the tensor is to it


class Changed(CannotResume):
    """Something is not what it was: it may be put back."""


class Before:
    """What an optimizer had when its step failed.

    Args:
        optimizer: The optimizer.

    Attributes:
        are_apart: True if no two parameters share their storage.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._groups = list(optimizer.param_groups)
        self._settings = [_settings(group) for group in self._groups]
        self._group: Any = None
        owned = _owned(optimizer)
        self._parameters = _numbered(owned)
        self._states = _numbered(tensors([optimizer.state.get(p) for p in owned]))
        self.are_apart = len(self._parameters) == len(owned)
        self._versions: dict[int, tuple[Any, int]] = {}
        self.note(_all_of(optimizer))
        self._roles = dict(_roles(optimizer))
        self._places: dict[int, Role] = {}

    def note(self, found: Any) -> None:
        """Note how tensors are now."""
        for tensor in tensors(found):
            self._versions[place(tensor)] = tensor, _version(tensor)

    def begin(self) -> None:
        """The step runs again: look up what was put in the place of what."""
        self._places = {place(now): role for role, now in _roles(self._optimizer)}

    def round(self, value: Any) -> object:
        """What a loop's variable says of its round; None if nothing."""
        if isinstance(value, bool | int):
            return value
        if isinstance(value, dict):
            same = [i for i, group in enumerate(self._groups) if group is value]
            return ("group", *same) if same else None
        found = [place(tensor) for tensor in tensors(value)]
        for known in (self._parameters, self._states):
            numbers = tuple(known[there] for there in found if there in known)
            if numbers:
                return numbers
        return None

    def within(self, group: Any) -> Before:
        """The same, while operations of one group are left out."""
        self._group = group
        return self

    def __enter__(self) -> Before:
        return self

    def __exit__(self, *_: object) -> None:
        self._group = None

    def check(self, tensor: Any) -> None:
        """Check that what a left-out operation had read is what it was.

        Raises:
            Changed: It is not.
        """
        _, version = self._versions.get(place(tensor), (None, None))
        if version != _version(tensor) and not self._is_copy(tensor):
            raise Changed("what it had worked with is not what it was")
        for known, settings in zip(self._groups, self._settings, strict=True):
            if known is self._group and _settings(known) != settings:
                raise Changed("its settings are not what they were")

    def _is_copy(self, tensor: Any) -> bool:
        """True of what has taken the place of a tensor, with the same in it.

        State that is moved to the device where its parameter is, say.
        """
        role = self._places.get(place(tensor))
        old = None if role is None else self._roles.get(role)
        if old is None or place(old) == place(tensor):
            return False
        _, version = self._versions[place(old)]
        is_same = version == _version(old) and are_same(old, tensor)
        if is_same:
            self.note(tensor)
        return is_same


def are_same(one: Any, other: Any) -> bool:
    """True if two tensors are, bit for bit, wherever they are."""
    torch = sys.modules["torch"]
    if (one.dtype, one.shape, one.layout) != (other.dtype, other.shape, other.layout):
        return False
    if one.layout is not torch.strided:
        return False
    bits = [
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for tensor in (one, other)
    ]
    return bool(torch.equal(*bits))


def _owned(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _numbered(found: Iterable[Any]) -> dict[int, int]:
    return {place(tensor): number for number, tensor in enumerate(found)}


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in group.items()
        if key != "params" and not any(True for _ in tensors(value))
    }


def _roles(optimizer: Any) -> Iterator[tuple[Role, Any]]:
    """Gradients and states, each with what it is."""
    for number, parameter in enumerate(_owned(optimizer)):
        if parameter.grad is not None:
            yield (number, None), parameter.grad
        for key, value in optimizer.state.get(parameter, {}).items():
            if hasattr(value, "_version"):
                yield (number, key), value


def _all_of(optimizer: Any) -> list[Any]:
    """Every tensor that a step may work with."""
    owned = _owned(optimizer)
    states = [optimizer.state[p] for p in owned if p in optimizer.state]
    groups = [list(group.values()) for group in optimizer.param_groups]
    is_tensor = sys.modules["torch"].is_tensor
    others = [value for value in vars(optimizer).values() if is_tensor(value)]
    return [groups, [p.grad for p in owned], states, others]


def _version(tensor: Any) -> int:
    return -1 if tensor.is_inference() else int(tensor._version)
