"""What torch's compiler reads: functions as the user wrote them, without guards.

A guard is a ``try`` around a function's body. The compiler cannot break a graph inside
a ``try``, so that it would give up functions that it compiles in parts, and it knows
nothing of our loops. What it compiles has no frame to be held in anyway; what it gives
up runs with its guards.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import CodeType, ModuleType
from typing import Any

_log = logging.getLogger(__name__)
_CONVERT = "torch._dynamo.convert_frame"
_FUNCTIONS = "torch._dynamo.variables.functions"

Plain = Callable[[CodeType], CodeType]


def show(plain: Plain) -> Callable[[], None]:
    """Let the compiler read ``plain(code)``, from now on; the result ends that.

    ``plain`` gives code with the same arguments and outer variables.
    """
    undo = ExitStack()
    if _CONVERT in sys.modules:
        _replace_in(plain, undo)
    else:  # it is imported when something is compiled for the first time
        finder = _AfterImport(functools.partial(_replace_in, plain, undo))
        sys.meta_path.insert(0, finder)
        undo.callback(finder.close)
    return undo.close


def _replace_in(plain: Plain, undo: ExitStack) -> None:
    try:
        _replace(sys.modules[_CONVERT], sys.modules[_FUNCTIONS], plain, undo)
    except (AttributeError, KeyError):
        _log.info("This version of torch compiles functions with their guards.")


def _replace(
    convert: ModuleType, functions: ModuleType, plain: Plain, undo: ExitStack
) -> None:
    compile_frame = convert.compile_frame
    inlined = functions.UserFunctionVariable
    get_code = inlined.get_code

    @functools.wraps(compile_frame)
    def compile_plain(code: CodeType, *rest: Any, **options: Any) -> Any:
        return compile_frame(plain(code), *rest, **options)

    @functools.wraps(get_code)
    def get_plain_code(self: Any) -> CodeType:
        return plain(get_code(self))

    _set(convert, "compile_frame", compile_plain, undo)
    _set(inlined, "get_code", get_plain_code, undo)


def _set(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


class _AfterImport:
    """A finder that only waits for the compiler to be imported."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _CONVERT:
            return None
        self.close()
        spec = importlib.util.find_spec(name)
        loader = spec.loader if spec is not None else None
        if loader is not None:
            run = loader.exec_module

            def run_and_tell(module: ModuleType) -> None:
                run(module)
                self._then()

            loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec

    def close(self) -> None:
        """Wait no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
