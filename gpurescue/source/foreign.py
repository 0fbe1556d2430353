"""A library's function whose failure holds the run where it happened.

Some failures come out of the iterator that a loop of the user's asks for its next
item. Held at the loop, everything between the two would be gone: a generator that an
exception has left is over, ``zip`` has lost what it had, ``islice`` lets go. So the
iterator itself holds the run, with all of that alive, and can be asked again::

    while True:
        try: <what the library wrote>
        except: <ask the run; go round again, or raise>

The lines are the library's own. A ``try`` that is not taken costs nothing.
"""

from __future__ import annotations

import ast
import functools
import inspect
from types import CodeType, FunctionType

from gpurescue.source import hidden, splice
from gpurescue.source import tree as trees
from gpurescue.source.transform import FOREIGN, LOADED_GUARDS, RESUME


def held(function: FunctionType) -> FunctionType | None:
    """``function`` with a guard around its body; None where that cannot be made."""
    code = function.__code__
    node = _parsed(code)
    if node is None or code.co_freevars or _has_private_names(node):
        return None
    body = [*node.body, *hidden.statements("return None")]
    handler = hidden.statements(
        f"{RESUME} = {LOADED_GUARDS}\n"
        f"if {RESUME} is None or not {RESUME}.failed(): raise",
        line=node.lineno,
    )
    (loop,) = hidden.statements("while True: pass")
    assert isinstance(loop, ast.While)
    loop.body = [hidden.protected(body, handler)]
    node.body, node.decorator_list = [loop], []
    module = ast.Module(body=[node], type_ignores=[])
    flags = splice.future_flags(code)
    made = compile(module, code.co_filename, "exec", flags, dont_inherit=True)
    return _like(function, made)


def _parsed(code: CodeType) -> ast.FunctionDef | None:
    """The function's own tree, every node where it stands in the file."""
    try:
        source = inspect.getsource(code)
        tree = ast.parse(f"if 1:\n{source}" if source[:1].isspace() else source)
    except (OSError, SyntaxError):
        return None
    top = tree.body[0]
    node = top.body[0] if isinstance(top, ast.If) else top
    if not isinstance(node, ast.FunctionDef):
        return None
    ast.increment_lineno(node, code.co_firstlineno - trees.first_line(node))
    return node


def _has_private_names(node: ast.AST) -> bool:
    """True if the compiler would have to know the class around the function."""
    names = [
        getattr(found, "id", None) or getattr(found, "attr", None) or ""
        for found in ast.walk(node)
    ]
    return any(name[:2] == "__" and name[-2:] != "__" for name in names)


def _like(function: FunctionType, module: CodeType) -> FunctionType:
    """A function with the new code, and all else as in the old one."""
    (made,) = [c for c in module.co_consts if isinstance(c, CodeType)]
    code = made.replace(
        co_qualname=function.__code__.co_qualname,
        co_firstlineno=function.__code__.co_firstlineno,
        co_consts=(*made.co_consts, FOREIGN),
    )
    copy = FunctionType(code, function.__globals__, function.__name__)
    copy.__defaults__ = function.__defaults__
    copy.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(copy, function)
    del copy.__dict__["__wrapped__"]
    return copy
