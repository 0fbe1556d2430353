"""Byte code in a graph of objects, which another version of Python must not touch.

It is kept as bytes, with the version that they are of, and with where the code came
from. Another version makes code of its own from that, or a stand-in.
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.lost import Lost

TAG = f"{sys.implementation.cache_tag} {importlib.util.MAGIC_NUMBER.hex()}"

Make = Callable[[Any], CodeType]


def reduced(code: CodeType, origin: Any) -> tuple[Any, ...]:
    """How code is pickled.

    Args:
        code: Of any function.
        origin: Where it came from, in words that any version understands.

    Raises:
        ValueError: It has a constant in it that no compiler has put there.
    """
    return made, (TAG, marshal.dumps(code), origin)


def made(tag: str, data: bytes, origin: Any) -> CodeType | Lost:
    """Code again, or what stands there; called by the pickle."""
    if tag == TAG:
        code: CodeType = marshal.loads(data)
        return code
    try:
        return here.make(origin)
    except CannotResume as error:
        here.unmade.append(str(error))
        return Lost("code", _why(error))


def _why(error: object) -> str:
    return f"could not be made again: {error}".rstrip(".")


def cannot_make(origin: Any) -> CodeType:
    """What makes code where nobody has said how.

    Raises:
        CannotResume: Always.
    """
    raise CannotResume("It was made by another version of Python.")


class _Here(threading.local):
    make: Make = staticmethod(cannot_make)
    unmade: list[str]

    def __init__(self) -> None:
        self.unmade = []


here = _Here()


@contextlib.contextmanager
def making(make: Make, unmade: list[str]) -> Iterator[None]:
    """In the block code of other versions is made like this.

    Args:
        make: Makes code, given where it came from.
        unmade: Filled with why code could not be made.
    """
    here.make, here.unmade = make, unmade
    try:
        yield
    finally:
        here.make, here.unmade = cannot_make, []


def forget(found: Lost) -> None:
    """What could not be made is there all the same: it was generated."""
    for why in here.unmade:
        if _why(why) == found.why:
            here.unmade.remove(why)
            return
