"""What all magics classes share, and typed names for IPython's decorators."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from IPython.core import magic, magic_arguments

from gpurescue.magics import rendering
from gpurescue.magics.front import Front

_Magic = TypeVar("_Magic", bound=Callable[..., Any])
_Decorator = Callable[[_Magic], _Magic]
_untyped: Any = magic_arguments

cell_magic: _Decorator[Any] = magic.cell_magic
line_magic: _Decorator[Any] = magic.line_magic
line_cell_magic: _Decorator[Any] = magic.line_cell_magic


def arguments() -> _Decorator[_Magic]:
    """``magic_arguments``, for lines in which ``$`` and ``{}`` mean what they say."""

    def decorate(function: _Magic) -> _Magic:
        found: _Magic = magic.no_var_expand(_untyped.magic_arguments()(function))
        return found

    return decorate


def argument(*names: str, **settings: Any) -> _Decorator[_Magic]:
    """One argument of a magic, as for ``argparse``."""
    found: _Decorator[_Magic] = _untyped.argument(*names, **settings)
    return found


class Commands(magic.Magics):
    """Magics that give commands to a front."""

    def __init__(self, front: Front) -> None:
        super().__init__(front.shell.ip)
        self.front = front

    def parse(self, command: Callable[..., Any], line: str) -> argparse.Namespace:
        """The arguments that a line gives to a magic."""
        found: argparse.Namespace = _untyped.parse_argstring(command, line)
        return found

    def shown(self) -> contextlib.AbstractContextManager[None]:
        """Errors that leave the block are shown in one sentence."""
        return rendering.in_one_sentence(self.front.shell.ip)
