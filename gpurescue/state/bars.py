"""Progress bars of tqdm in a graph of objects.

A loop over a bar asks a generator of tqdm's, and generators cannot be pickled. Of this
one it is known what it does: it asks the iterator inside for each item, and counts.
"""

from __future__ import annotations

import gc
import inspect
import sys
from types import GeneratorType
from typing import Any

from gpurescue.errors import CannotResume

_FACTS = ("desc", "total", "leave", "unit", "unit_scale", "position", "disable")
_TQDM = "tqdm.std"
_HIDDEN = "_gr_facts"

Reduced = tuple[Any, ...]


class Counted:
    """Gives what an iterator gives, and moves a bar.

    Args:
        bar: A ``tqdm``, as it is going to be shown.
        inner: Gives the items.
        number: How many it had given before, without the last one.
    """

    def __init__(self, bar: Any, inner: Any, number: int) -> None:
        self._bar = bar
        self._inner = inner
        self._number = number

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Any:
        _show(self._bar, self._number)
        self._number += 1  # the item before is done with
        self._bar.update(self._number - self._bar.n)
        try:
            return next(self._inner)
        except StopIteration:
            self._bar.close()
            raise


def reduced(value: Any) -> Reduced | None:
    """How a bar, or a loop over one, is pickled; None for anything else.

    Raises:
        CannotResume: The loop does not say what it asks.
    """
    module = sys.modules.get(_TQDM)
    if module is None:
        return None
    if isinstance(value, module.tqdm):
        facts = vars(value).get(_HIDDEN)
        if facts is None:
            facts = {name: getattr(value, name, None) for name in _FACTS}
        state = {"iterable": getattr(value, "iterable", None)}
        return made, (type(value), facts, getattr(value, "n", 0)), state
    if type(value) is GeneratorType and _is_bars(value, module):
        return _of_loop(value)
    return None


def made(kind: Any, facts: dict[str, Any], number: int) -> Any:
    """A bar that has come as far as another had, and is shown when it goes on."""
    bar = kind(initial=number, disable=True)
    setattr(bar, _HIDDEN, facts)
    return bar


def _show(bar: Any, number: int) -> None:
    facts = vars(bar).pop(_HIDDEN, None)
    if facts is not None:
        known = {name: value for name, value in facts.items() if value is not None}
        bar._instances.add(bar)  # a bar that is not shown has left them
        bar.__init__(initial=number, **known)


def _is_bars(value: GeneratorType[Any, Any, Any], module: Any) -> bool:
    if value.gi_code.co_name != "__iter__":
        return False
    return isinstance(inspect.getgeneratorlocals(value).get("self"), module.tqdm)


def _of_loop(value: GeneratorType[Any, Any, Any]) -> Reduced:
    names = inspect.getgeneratorlocals(value)
    if inspect.getgeneratorstate(value) != inspect.GEN_SUSPENDED:
        raise CannotResume("a loop over a bar that has not begun")
    # What a `for` asks is on the stack of the frame, behind its variables.
    asked = [x for x in gc.get_referents(value) if hasattr(type(x), "__next__")]
    if not asked:
        raise CannotResume("what is asked under the bar is not found")
    inner = asked[-1]
    if isinstance(inner, GeneratorType) and _is_bars(inner, sys.modules[_TQDM]):
        return _of_loop(inner)  # that of a notebook goes over the plain one
    return Counted, (names["self"], inner, names.get("n", names["self"].n))
