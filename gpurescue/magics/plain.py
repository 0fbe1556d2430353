"""Functions that were compiled with guards get the code that they have without."""

from __future__ import annotations

import ast
import functools
import gc
import logging
import sys
from collections.abc import Iterator
from types import CodeType, CoroutineType, FrameType, FunctionType, GeneratorType

from gpurescue.recovery import frames
from gpurescue.source import cells, splice, transform, versions
from gpurescue.source.quiet import compiled

_log = logging.getLogger(__name__)


def restore() -> int:
    """Take the guards out of every function there is; how many had some."""
    found = [
        thing
        for thing in gc.get_objects()
        if type(thing) is FunctionType and _is_ours(thing)
    ]
    plain = _Plain()
    for function in found:
        function.__code__ = _without(function.__code__, plain)
    return len(found)


def is_running() -> bool:
    """Tell whether some frame runs guarded code: that cannot be exchanged."""
    return any(map(frames.has_guards, _running()))


def _running() -> Iterator[CodeType]:
    for frame in sys._current_frames().values():
        outer: FrameType | None = frame
        while outer is not None:
            yield outer.f_code
            outer = outer.f_back
    for thing in gc.get_objects():
        if type(thing) is GeneratorType and thing.gi_frame is not None:
            yield thing.gi_code
        elif type(thing) is CoroutineType and thing.cr_frame is not None:
            yield thing.cr_code


def without_guards(code: CodeType) -> CodeType:
    """The same code without guards; ``code`` itself, if it has none or must keep them.

    Its arguments, outer variables and variables of inner functions are the same.
    """
    return _kept_without(code, code.co_filename) if frames.has_guards(code) else code


@functools.lru_cache(maxsize=1000)
def _kept_without(code: CodeType, _: str) -> CodeType:  # code of two files may be equal
    return _without(code, _Plain())


def _is_ours(function: FunctionType) -> bool:
    code = function.__code__
    return frames.has_guards(code) or versions.is_marked(code)


def _without(code: CodeType, plain: _Plain) -> CodeType:
    try:
        found = plain.of(code)
    except Exception:  # noqa: BLE001
        # A guard with no run to answer to does nothing: it can stay.
        _log.exception("%s keeps its guards.", code.co_qualname)
        return code
    return found if found is not None and _fits(found, code) else code


def _fits(plain: CodeType, code: CodeType) -> bool:
    outer, inner = plain.co_freevars, plain.co_cellvars
    return (outer, inner) == (code.co_freevars, code.co_cellvars)


class _Plain:
    """The code that functions have without guards; each source is compiled once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], dict[tuple[str, int], CodeType]] = {}

    def of(self, code: CodeType) -> CodeType | None:
        definition = cells.definition(code)
        if definition is None:
            return versions.unmarked(code)
        unit = definition.unit
        flags = splice.future_flags(code) | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if (unit.filename, flags) not in self._known:
            made = compiled(unit.source, unit.path, flags)
            self._known[unit.filename, flags] = transform.functions_of(made)
        found = self._known[unit.filename, flags]
        return found.get((code.co_name, code.co_firstlineno))
