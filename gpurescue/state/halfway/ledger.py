"""Operations that are done already are left out; what that makes of their results.

While a step that failed is run again up to where it had come, an operation that writes
to a tensor from before is left out: it was done. Operations that make new tensors do
run, and give what they gave before, unless they read a tensor that was written later:
such a result is stale, and nothing that counts may be made from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpurescue.errors import CannotResume

Check = Callable[[Any], None]


class Ledger:
    """What was made, from what, and what is stale of it.

    Args:
        check: Called with each tensor from before that an operation which is left out
            had read; raises ``CannotResume`` if it is not what it was.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._from: dict[int, dict[int, Any]] = {}  # what a new tensor was made from
        self._uses: dict[int, set[int]] = {}  # and the other way round
        self._kept: list[Any] = []  # no storage's address is used again
        self._stale: set[int] = set()
        self._said: set[int] = set()  # read by Python itself
        self.left_out: dict[int, Any] = {}  # what would have been written

    def run(self, function: Any, arguments: Any, keywords: Any, *, tells: bool) -> Any:
        """Run an operation, or leave it out.

        Args:
            function: The operation.
            arguments: Its arguments.
            keywords: Those by name.
            tells: True if Python code that is still to come uses what it says.
        """
        written = list(_written(function, arguments, keywords))
        new = [tensor for tensor in written if place(tensor) in self._from]
        given = list(tensors((arguments, keywords)))
        if written and not new:
            return self._left_out(function, arguments, keywords, written)
        if len(new) != len(written):
            raise CannotResume("it has changed new tensors and old ones at once")
        result = function(*arguments, **keywords)
        self._note(function, result, given, new)
        if tells and next(tensors(result), None) is None:
            self.read(given)
            self._said |= self._sources(given).keys()
        return result

    def read(self, arguments: Any) -> None:
        """An operation that is to be done will read these.

        Raises:
            CannotResume: One is stale.
        """
        if any(place(tensor) in self._stale for tensor in tensors(arguments)):
            raise CannotResume("what it had computed on the way is lost")

    def _left_out(
        self, function: Any, arguments: Any, keywords: Any, written: list[Any]
    ) -> Any:
        for source in self._sources(tensors((arguments, keywords))).values():
            if place(source) not in self.left_out:
                self._check(source)
        places = {place(tensor): tensor for tensor in written}
        self.left_out |= places
        if places.keys() & self._said:
            raise CannotResume("what it had read on the way is lost")
        for there in places:
            self._stale |= self._uses.get(there, set())
        return _as_given(function, arguments, keywords)

    def _note(self, function: Any, result: Any, given: list[Any], new: Any) -> None:
        """What is new in a result, and what it was made from."""
        is_constant = function._schema.name == "aten::lift_fresh"
        old = {place(tensor) for tensor in given} - self._from.keys()
        if old and not is_constant and _is_view(function):
            return
        sources = {} if is_constant else self._sources(given)
        is_stale = any(place(tensor) in self._stale for tensor in given)
        for tensor in (*tensors(result), *new):
            if place(tensor) in old and not is_constant:
                continue
            self._kept.append(_weak(tensor))
            self._from.setdefault(place(tensor), {}).update(sources)
            for source in sources:
                self._uses.setdefault(source, set()).add(place(tensor))
            if is_stale:
                self._stale.add(place(tensor))

    def _sources(self, given: Iterable[Any]) -> dict[int, Any]:
        """The tensors from before that some tensors are, or were made from."""
        found: dict[int, Any] = {}
        for tensor in given:
            found |= self._from.get(place(tensor), {place(tensor): tensor})
        return found


def place(tensor: Any) -> int:
    """What tensors share that are views of each other."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse: no storage of its own
        return id(tensor)


def tensors(value: Any) -> Iterator[Any]:
    """The tensors in arguments, or in a result."""
    if isinstance(value, sys.modules["torch"].Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def _is_view(function: Any) -> bool:
    return any(value.alias_info is not None for value in function._schema.returns)


def _weak(tensor: Any) -> Any:
    """Keeps the address of a tensor's storage from being used again, not its bytes."""
    reference = sys.modules["torch"].multiprocessing.reductions.StorageWeakRef
    try:
        return reference(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return tensor


def _written(function: Any, arguments: Any, keywords: Any) -> Iterator[Any]:
    """The tensors that an operation writes to."""
    for argument, value in _pairs(function, arguments, keywords):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(value)


def _as_given(function: Any, arguments: Any, keywords: Any) -> Any:
    """What an operation in place returns: the tensors that it would have written."""
    by_alias = {
        str(argument.alias_info.before_set): value
        for argument, value in _pairs(function, arguments, keywords)
        if argument.alias_info is not None
    }
    returns = function._schema.returns
    found = [by_alias[str(value.alias_info.before_set)] for value in returns]
    return found[0] if len(found) == 1 else tuple(found) if found else None


def _pairs(function: Any, arguments: Any, keywords: Any) -> list[tuple[Any, Any]]:
    schema = function._schema.arguments
    found = list(zip(schema, arguments, strict=False))
    return found + [(a, keywords[a.name]) for a in schema if a.name in keywords]
