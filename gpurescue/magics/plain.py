"""Functions that were compiled with guards get the code that they have without."""

from __future__ import annotations

import ast
import gc
import logging
from types import CodeType, FunctionType

from gpurescue.recovery import frames
from gpurescue.source import cells, splice, transform

_log = logging.getLogger(__name__)


def restore() -> int:
    """Take the guards out of every function there is; how many had some."""
    found = [
        thing
        for thing in gc.get_objects()
        if type(thing) is FunctionType and frames.has_guards(thing.__code__)
    ]
    for function in found:
        _restore(function)
    return len(found)


def _restore(function: FunctionType) -> None:
    try:
        plain = _plain(function.__code__)
        if plain is not None and plain.co_freevars == function.__code__.co_freevars:
            function.__code__ = plain
    except Exception:  # noqa: BLE001
        # A guard with no run to answer to does nothing: it can stay.
        _log.exception("%s keeps its guards.", function.__qualname__)


def _plain(code: CodeType) -> CodeType | None:
    definition = cells.definition(code)
    if definition is None:
        return None
    unit = definition.unit
    flags = splice.future_flags(code) | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    module = compile(unit.tree, unit.filename, "exec", flags, dont_inherit=True)
    return transform.functions_of(module).get((code.co_name, code.co_firstlineno))
