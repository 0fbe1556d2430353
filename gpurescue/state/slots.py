"""State of optimizers: which tensors it has, and what else.

An optimizer makes its state in its first step. To put values back into one that has not
stepped yet, the state is made here instead: the containers from the names of the
tensors in them, such as ``old_dirs.3``, and what is no tensor (LBFGS counts in plain
numbers) from a skeleton that was kept beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from gpurescue.errors import UsageError
from gpurescue.state.named import Tree

_GONE = object()


def skeletons(tree: Tree) -> dict[str, Any]:
    """The state of each parameter with None for tensors, by owner as in ``Tree``."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        owner: _map(optimizer.state[key], lambda _: None, torch.Tensor)
        for owner, (optimizer, key) in tree.owners.items()
        if key in optimizer.state
    }


def owner_of(name: str, owners: Collection[str]) -> str | None:
    """Whose state a tensor of that name is in; None if it is in nobody's."""
    owner = name.rpartition(".")[0]
    while owner and owner not in owners:
        owner = owner.rpartition(".")[0]
    return owner or None


def without(state: Any, gone: Collection[int]) -> Any:
    """A copy of a state in which tensors with these ids are marked to go."""
    torch = sys.modules["torch"]

    def keep(tensor: Any) -> Any:
        return _GONE if id(tensor) in gone else tensor

    return _map(state, keep, torch.Tensor)


def filled(state: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Put tensors in, where their names say; what is still marked to go goes.

    Args:
        state: A skeleton, or what ``without`` has made; it is changed.
        tensors: By the rest of their name.

    Raises:
        UsageError: A list would have a gap.
    """
    for path in sorted(tensors, key=_natural):
        inner, parts = state, path.split(".")
        for part, following in pairwise(parts):
            found = _get(inner, part)
            if not isinstance(found, dict | list):
                found = [] if following.isdecimal() else {}
                _set(inner, part, found, path)
            inner = found
        _set(inner, parts[-1], tensors[path], path)
    left: dict[str, Any] = _cleared(state)
    return left


def _map(value: Any, of_tensor: Any, kind: type) -> Any:
    if isinstance(value, kind):
        return of_tensor(value)
    if isinstance(value, dict):
        return {key: _map(inner, of_tensor, kind) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map(inner, of_tensor, kind) for inner in value]
    return value


def _natural(path: str) -> list[tuple[int, str]]:
    """Numbers in their order; texts among themselves."""
    return [(len(x) if x.isdecimal() else 0, x) for x in path.split(".")]


def _key(inner: Any, part: str) -> Any:
    if isinstance(inner, list):
        is_there = part.isdecimal() and len(part) < 10 and int(part) <= len(inner)
        return int(part) if is_there else None
    return next((key for key in inner if str(key) == part), part)


def _get(inner: Any, part: str) -> Any:
    key = _key(inner, part)
    if isinstance(inner, list):
        return inner[key] if key is not None and key < len(inner) else None
    return inner.get(key)


def _set(inner: Any, part: str, value: Any, path: str) -> None:
    key = _key(inner, part)
    if isinstance(inner, list) and key == len(inner):
        inner.append(value)
    elif key is not None:
        inner[key] = value
    else:
        raise UsageError(f"The state {path!r} is no next one of {len(inner)} entries.")


def _cleared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleared(x) for key, x in value.items() if x is not _GONE}
    if isinstance(value, list):
        return list(_present(value))
    return value


def _present(values: list[Any]) -> Iterator[Any]:
    has_places = any(x is None for x in values)  # LBFGS: as many as its history has
    for value in values:
        if value is not _GONE:
            yield _cleared(value)
        elif has_places:
            yield None
