"""Code that knows which version of a file it was made from.

All versions of a module have the same file name, since that is where breakpoints,
tracebacks and profilers look for them. While a run is parked, code of several versions
is alive. So each code object of a guarded module carries the name of its source in a
constant that nothing loads; it goes along when code is copied or pickled.
"""

from __future__ import annotations

from types import CodeType

_MARK = "__gr_source__ "


def marked(code: CodeType, name: str) -> CodeType:
    """``code``, and all code in it, made from the source called ``name``."""
    constants = tuple(
        marked(constant, name) if isinstance(constant, CodeType) else constant
        for constant in code.co_consts
    )
    return code.replace(co_consts=(*constants, _MARK + name))


def unmarked(code: CodeType) -> CodeType:
    """``code``, and all code in it, as it was before it was marked."""
    constants = tuple(
        unmarked(constant) if isinstance(constant, CodeType) else constant
        for constant in code.co_consts
        if not _is_mark(constant)
    )
    return code.replace(co_consts=constants)


def is_marked(code: CodeType) -> bool:
    """Tell whether ``code`` knows its source."""
    return bool(code.co_consts) and _is_mark(code.co_consts[-1])


def source_name(code: CodeType) -> str:
    """The name of the source of ``code``; its file name if it bears no mark."""
    if is_marked(code):
        return str(code.co_consts[-1])[len(_MARK) :]
    return code.co_filename


def _is_mark(constant: object) -> bool:
    return type(constant) is str and constant.startswith(_MARK)
