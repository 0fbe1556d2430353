"""Code objects for remainders: the statements of ``remainder`` made runnable.

The code bears the name, file, lines and class of the function that it continues, so
that tracebacks, debuggers and ``super()`` take it for that function, and a crash in
it is found in the user's source like any other.
"""

from __future__ import annotations
import __future__

import ast
import inspect
from dataclasses import dataclass
from types import CodeType

from gpurescue.source import hidden, transform, versions
from gpurescue.source import remainder as remainders
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.parts import COMPREHENSIONS
from gpurescue.source.quiet import compiled
from gpurescue.source.remainder import BOX

_SCOPES = trees.Function | ast.ClassDef | ast.Lambda | COMPREHENSIONS
BODY = "__gr_body__"
OUTER = "__gr_outer__"

_FUTURES = sum(
    getattr(__future__, n).compiler_flag for n in __future__.all_feature_names
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """The names of a live frame, by where their values are."""

    bound: tuple[str, ...]
    unbound: tuple[str, ...]
    cells: tuple[str, ...]


def future_flags(code: CodeType) -> int:
    """The ``__future__`` flags that ``code`` was compiled under."""
    return int(code.co_flags & _FUTURES)


def compile_function(
    body: list[ast.stmt],
    definition: Definition,
    variables: Variables,
    *,
    block: int,
    like: CodeType,
) -> CodeType:
    """Compile statements as a function that goes on in a live frame's variables.

    The function takes one argument, a box: ``take()`` gives the values of
    ``variables.bound`` in that order. Cells are free variables, by their names.

    Args:
        body: Statements of ``definition``, with their numbers.
        definition: The function that they are part of.
        variables: Names of the live frame.
        block: Number of the guarded block that ``body`` is the rest of.
        like: The live frame's code: its kind and its flags are kept.
    """
    is_async = bool(like.co_flags & inspect.CO_COROUTINE)
    body = _explicit_super(body, definition)
    prologue = _prologue(definition, variables, like)
    inner = _inner([*prologue, *body], definition.line, is_async=is_async)
    tree = ast.fix_missing_locations(_wrap(inner, definition, variables))
    flags = future_flags(like)
    plain = None  # what it would say of names is known: it has no cells
    if variables.cells or _has_scopes(body):
        plain = compiled(trees.copied(tree), like.co_filename, flags)
    inner.body = body
    kind = _Kind(is_async=is_async, yields=bool(like.co_flags & inspect.CO_GENERATOR))
    _guard(inner, block, plain, definition, kind)
    inner.body = [*prologue, *inner.body]
    unit = definition.unit
    made = _find_code(compiled(tree, unit.path, flags))
    if unit.is_file:
        made = versions.marked(made, unit.filename)
    return _rename(made, definition)


def compile_module(
    body: list[ast.stmt], definition: Definition, *, block: int, like: CodeType
) -> CodeType:
    """Compile statements as module code that goes on in the cell's namespace."""
    is_async = bool(like.co_flags & inspect.CO_COROUTINE)
    flags = future_flags(like)
    if is_async:
        flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = ast.Module(body=body or hidden.statements("pass"), type_ignores=[])
    ast.fix_missing_locations(tree)
    filename = definition.unit.path
    plain = compiled(trees.copied(tree), filename, flags)
    _guard(tree, block, plain, definition, _Kind(is_async=is_async, yields=False))
    if is_async:
        tree.body += hidden.statements("if False: await None")
    return compiled(tree, filename, flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How a live frame runs."""

    is_async: bool
    yields: bool


def _has_scopes(body: list[ast.stmt]) -> bool:
    return any(isinstance(node, _SCOPES) for top in body for node in ast.walk(top))


def _guard(
    scope: trees.Scope,
    block: int,
    plain: CodeType | None,
    definition: Definition,
    kind: _Kind,
) -> None:
    """Guard a remainder, and the functions that it defines.

    ``plain`` is its code without guards, or None if it has neither cells nor functions.
    """
    unstable = definition.unit.rebound
    nested = [n for n in ast.walk(scope) if isinstance(n, trees.Function)]
    cells: tuple[str, ...] = ()
    if plain is not None and not isinstance(scope, ast.Module):
        cells = transform.cells_of(_find_code(plain))
    layout = trees.collect(scope, top=block)
    transform.guard_layout(
        layout, cells, unstable, is_async=kind.is_async, is_generator=kind.yields
    )
    codes = {} if plain is None else transform.functions_of(plain)
    for node in nested:
        if node is not scope:
            code = codes.get((node.name, trees.first_line(node)))
            cells = transform.cells_of(code) if code else ()
            transform.guard_scope(node, cells=cells, unstable=unstable)


def _inner(body: list[ast.stmt], line: int, *, is_async: bool) -> trees.Function:
    prefix = "async " if is_async else ""
    # On its line from the start: a code object's line table is relative to it.
    (node,) = hidden.statements(f"{prefix}def {BODY}({BOX}): pass", line=line)
    assert isinstance(node, trees.Function)
    node.body = body
    return node


def _wrap(
    inner: trees.Function, definition: Definition, variables: Variables
) -> ast.Module:
    """Put the function where its cells are free variables and names are mangled."""
    wrapped: ast.stmt = inner
    if definition.class_name is not None:
        (owner,) = hidden.statements(f"class {definition.class_name}: pass")
        assert isinstance(owner, ast.ClassDef)
        owner.body = [inner]
        wrapped = owner
    (outer,) = hidden.statements(f"def {OUTER}(): pass")
    assert isinstance(outer, ast.FunctionDef)
    cells = _own_cells(variables)
    outer.body = [*hidden.clear(cells), wrapped]
    if wrapped is not inner and definition.class_name not in cells:
        # Methods that name their own class mean the global one, not this.
        outer.body[:0] = hidden.statements(f"global {definition.class_name}")
    return ast.Module(body=[outer], type_ignores=[])


def _own_cells(variables: Variables) -> list[str]:
    # The class around the function makes __class__.
    return [name for name in variables.cells if name != "__class__"]


def _explicit_super(body: list[ast.stmt], definition: Definition) -> list[ast.stmt]:
    """``super()`` as ``super(__class__, self)``: the code has no ``self`` argument."""
    scope = definition.scope
    if definition.class_name is None or not isinstance(scope, trees.Function):
        return body
    arguments = [*scope.args.posonlyargs, *scope.args.args]
    if not arguments:
        return body
    for top in body:
        for node in (top, *transform.own_nodes(top)):
            if _is_bare_super(node):
                names = ("__class__", arguments[0].arg)
                node.args = [  # type: ignore[attr-defined]
                    ast.copy_location(ast.Name(id=n, ctx=ast.Load()), node)
                    for n in names
                ]
    return body


def _is_bare_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "super"
        and not node.args
        and not node.keywords
    )


def _prologue(
    definition: Definition, variables: Variables, like: CodeType
) -> list[ast.stmt]:
    """Declarations, and the values of the live frame."""
    lines = ["pass"]
    if isinstance(definition.scope, trees.Function):
        names = remainders.declared_globals(definition.scope)
        if names:
            lines.append(f"global {', '.join(sorted(names))}")
    if cells := _own_cells(variables):
        lines.append(f"nonlocal {', '.join(cells)}")
    if variables.bound:
        lines.append(f"{', '.join(variables.bound)}, = {BOX}.take()")
    # What follows never runs: it only tells the compiler what is what.
    lines += [f"if False: {name} = None" for name in variables.unbound]
    if like.co_flags & inspect.CO_GENERATOR:
        lines.append("if False: yield")
    return hidden.statements("\n".join(lines))


def _find_code(code: CodeType) -> CodeType:
    waiting = [code]
    while waiting:
        found = waiting.pop()
        if found.co_name == BODY:
            return found
        waiting += [c for c in found.co_consts if isinstance(c, CodeType)]
    raise LookupError("The continuation has no body.")


def _rename(code: CodeType, definition: Definition) -> CodeType:
    """Give ``code`` and all code in it the names that the user's function has."""
    old = code.co_qualname

    def renamed(inner: CodeType) -> CodeType:
        constants = tuple(
            renamed(c) if isinstance(c, CodeType) else c for c in inner.co_consts
        )
        name = definition.qualname + inner.co_qualname[len(old) :]
        line = max(inner.co_firstlineno, 1)  # code without a place has -1
        return inner.replace(co_qualname=name, co_consts=constants, co_firstlineno=line)

    return renamed(code).replace(
        co_name=definition.name, co_firstlineno=definition.line
    )
