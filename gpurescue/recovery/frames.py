"""Reading and writing the variables of live frames."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import sys
from collections.abc import Mapping
from types import CellType, CodeType, FrameType, FunctionType, TracebackType
from typing import Any

from gpurescue.source import transform
from gpurescue.source import tree as trees

_OURS = "gpurescue."
_loader: Any = importlib.machinery.SourceFileLoader
_EXECUTES = _loader.exec_module.__code__


def is_ours(frame: FrameType) -> bool:
    """Tell whether a frame runs gpurescue's own code."""
    return str(frame.f_globals.get("__name__", "")).startswith(_OURS)


def is_guarded(frame: FrameType) -> bool:
    """Tell whether a frame runs the user's code, compiled with guards in it."""
    return not is_ours(frame) and has_guards(frame.f_code)


def has_guards(code: CodeType) -> bool:
    """Tell whether ``code`` is the user's, compiled with guards in it."""
    constants = code.co_consts
    return transform.GUARDS in constants and transform.FOREIGN not in constants


def is_importing(frame: FrameType | None) -> bool:
    """Tell whether a frame runs inside an import.

    Nobody is to be held there: others would wait for a module that is half made. The
    statement that imports is done again as a whole.
    """
    while frame is not None:
        if frame.f_code is _EXECUTES:
            return True
        frame = frame.f_back
    return False


def is_body(frame: FrameType) -> bool:
    """Tell whether a frame runs a cell's own statements, so that locals are globals."""
    return frame.f_code.co_name == "<module>"


def read(frame: FrameType) -> dict[str, Any]:
    """The user's variables of a frame, by name."""
    return {k: v for k, v in frame.f_locals.items() if not trees.is_hidden(k)}


def hidden(frame: FrameType, name: str, default: Any = None) -> Any:
    """One of our own variables in a frame."""
    return frame.f_locals.get(name, default)


def write(frame: FrameType, values: Mapping[str, Any]) -> None:
    """Set variables of a live frame; names that its code does not have are ignored.

    Before 3.13 ``f_locals`` is a copy that ``PyFrame_LocalsToFast`` writes back
    (PEP 667 made it a view).
    """
    local = frame.f_locals
    if not is_body(frame):
        code = frame.f_code
        known = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        values = {name: value for name, value in values.items() if name in known}
    local.update(values)
    if sys.version_info < (3, 13) and not is_body(frame):
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def forget_locals(frame: FrameType) -> None:
    """To be called last in a trace function, with its frame.

    CPython 3.12 writes back what ``f_locals`` of a frame held, behind each call of one.
    At module level it takes the variable of a comprehension for a global one then: it
    becomes None, or the global one of that name.
    """
    if _HAS_FLAG and is_body(frame):
        _bytes[id(frame) + _FLAG] = 0  # ``f_fast_as_locals``: nothing to be written


def cells(holder: FunctionType | None) -> dict[str, CellType]:
    """The cells that a guard's lambda closed over, by variable name."""
    if holder is None:
        return {}
    return dict(zip(holder.__code__.co_freevars, holder.__closure__ or (), strict=True))


def without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Take gpurescue's own frames out of a traceback, which is changed in place."""
    while traceback is not None and is_ours(traceback.tb_frame):
        traceback = traceback.tb_next
    entry = traceback
    while entry is not None:
        following = entry.tb_next
        while following is not None and is_ours(following.tb_frame):
            following = following.tb_next
        if following is not entry.tb_next:
            entry.tb_next = following
        entry = following
    return traceback


def show_line_of(error: BaseException | None, frame: FrameType) -> None:
    """Make ``f_lineno`` of a frame that is over the line where ``error`` left it."""
    entry = error.__traceback__ if error is not None else None
    if entry is not None and entry.tb_frame is frame and _can_set_line():
        _set_line(frame, entry.tb_lineno or 0)


class showing_line_of:
    """``frame.f_lineno`` is the line where ``error`` was raised, and not our guard's.

    Debuggers see the parked frame there, and IPython shows the frames of cells by it
    (``ultratb`` asks the dead frame, not the traceback, when there is no such file).
    ``is_kept`` makes it stay: right only if the frame never runs again.
    """

    __slots__ = ("_frame", "_line", "is_kept")

    def __init__(self, error: BaseException | None, frame: FrameType) -> None:
        self.is_kept = False
        self._frame = frame
        entry = error.__traceback__ if error is not None else None
        while entry is not None and entry.tb_frame is not frame:
            entry = entry.tb_next
        line = 0 if entry is None else entry.tb_lineno or 0
        self._line = line if _can_set_line() else 0

    def __enter__(self) -> showing_line_of:
        if self._line > 0:
            _set_line(self._frame, self._line)
        return self

    def __exit__(self, *_: object) -> None:
        if self._line > 0 and not self.is_kept:
            _set_line(self._frame, 0)


_HAS_FLAG = sys.version_info[:2] == (3, 12)
_LINE = object.__basicsize__ + 3 * ctypes.sizeof(ctypes.c_void_p)
# The whole address space as an array: indexing one is faster than from_address().
_space = 2**47 if ctypes.sizeof(ctypes.c_void_p) == 8 else 2**30
_integers = (ctypes.c_int * (_space // 4)).from_address(0)
_bytes = (ctypes.c_ubyte * _space).from_address(0)
_FLAG = _LINE + ctypes.sizeof(ctypes.c_int) + 2  # f_trace_lines, f_trace_opcodes


def _set_line(frame: FrameType, line: int) -> None:
    # ``f_lineno`` of CPython 3.11 to 3.13: behind f_back, f_frame and f_trace. The
    # interpreter works the line out where it is 0.
    _integers[id(frame) + _LINE >> 2] = line


@functools.cache
def _can_set_line() -> bool:
    """Try it on a frame of our own, where nothing can break."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 14):
        return False
    frame = sys._getframe()
    before = frame.f_lineno
    _set_line(frame, before + 1000)
    is_set = frame.f_lineno == before + 1000
    _set_line(frame, 0)
    after = frame.f_lineno
    del frame  # it would hold itself, and the frames that called it
    return is_set and after < before + 1000
