"""Having a function called in another thread, between two lines of its Python code.

Debuggers attach that way: CPython 3.11 lets a trace function be set on the state of any
thread, and from 3.12 on ``sys.monitoring`` (PEP 669) tells of lines in all of them. It
is taken out again before the function is called, so nothing is asked of the other
thread while nobody wants anything of it.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_log = logging.getLogger(__name__)

# int (*Py_tracefunc)(PyObject *, PyFrameObject *, int, PyObject *)
_TRACER = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
)
_TOOLS = (4, 3)  # numbers that PEP 669 gives to nobody


def interrupted(frame: FrameType) -> FrameType:
    """The frame that stands between two lines, given that of the function called."""
    found = frame.f_back
    while found is not None and found.f_globals is globals():
        found = found.f_back
    return found or frame


class ThreadHandle:
    """The calling thread, for others to reach it by."""

    def __init__(self) -> None:
        self._ident: int | None = threading.get_ident()
        self._waiting: list[Callable[[], None]] = []
        kind: type[_Monitor | _ThreadTrace] = _Monitor
        if sys.version_info < (3, 12):
            kind = _ThreadTrace
        self._door = kind(self._arrived)

    def call(self, function: Callable[[], None]) -> bool:
        """Have ``function`` called in the thread as soon as it runs Python code.

        A call into C, such as a sleep, is not broken off. False if the thread is over,
        or if this interpreter has no such door.
        """
        if self._ident is None:
            return False
        self._waiting.append(function)
        return self._door.open()

    def close(self) -> None:
        """Called in the thread itself, before it ends."""
        self._ident = None
        self._waiting.clear()

    def _arrived(self) -> None:
        """Called at each event, perhaps in another thread."""
        if self._ident is None:
            self._door.close()
        if threading.get_ident() != self._ident:
            return
        waiting, self._waiting = self._waiting, []
        # First: a function may set a trace of its own, or ask for another call.
        self._door.close()
        for function in waiting:
            try:
                function()
            except Exception:  # noqa: BLE001 - the thread is somebody else's
                _log.exception("A call into the thread of a run has failed.")


class _ThreadTrace:
    """CPython 3.11: a trace function on the state of one thread."""

    def __init__(self, arrived: Callable[[], None]) -> None:
        current = ctypes.pythonapi["PyThreadState_Get"]
        current.restype = ctypes.c_void_p
        self._state = ctypes.c_void_p(current())
        self._set: Any = ctypes.pythonapi["_PyEval_SetTrace"]
        self._arrived = arrived

    def open(self) -> bool:
        self._set(self._state, _trace, ctypes.py_object(self._arrived))
        return True

    def close(self) -> None:
        self._set(self._state, _TRACER(), None)


def _happened(arrived: Any, frame: int, event: int, argument: int) -> int:
    arrived()
    return 0


_trace = _TRACER(_happened)


class _Monitor:
    """CPython 3.12 and newer: line events of all threads, for a moment."""

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._tool: int | None = None

    def open(self) -> bool:
        if self._tool is None:
            self._tool = _free_tool()
        if self._tool is None:
            return False
        monitoring = sys.monitoring  # type: ignore[attr-defined]
        events = monitoring.events.LINE | monitoring.events.PY_START
        for event in (monitoring.events.LINE, monitoring.events.PY_START):
            monitoring.register_callback(self._tool, event, self._happened)
        monitoring.set_events(self._tool, events)
        return True

    def _happened(self, *_: object) -> None:
        self._arrived()

    def close(self) -> None:
        tool, self._tool = self._tool, None
        if tool is not None:
            monitoring = sys.monitoring  # type: ignore[attr-defined]
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)


def _free_tool() -> int | None:
    monitoring = sys.monitoring  # type: ignore[attr-defined]
    for tool in _TOOLS:
        if monitoring.get_tool(tool) is None:
            monitoring.use_tool_id(tool, "gpurescue")
            return tool
    return None
