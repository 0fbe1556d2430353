"""Compiling once more what the user's own compiler has seen."""

from __future__ import annotations

import ast
import contextlib
import warnings
from collections.abc import Iterator
from types import CodeType


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The block shows no warnings about the user's code: they were shown before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compiled(source: ast.Module | str, filename: str, flags: int = 0) -> CodeType:
    """``compile``, without the warnings that it has given before.

    Raises:
        SyntaxError: As ``compile`` would.
    """
    with quietly():
        code: CodeType = compile(source, filename, "exec", flags, dont_inherit=True)
    return code
