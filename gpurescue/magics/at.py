"""Code that runs inside a suspended frame: it reads and writes the frame's variables.

The code is compiled as a function whose free variables are the frame's variables, so
comprehensions and nested functions in it see them as well. What it assigns is written
into the live frame, also when it fails half-way, as in any other cell.
"""

from __future__ import annotations

import ast
import dataclasses
from types import CellType, CodeType, FunctionType
from typing import Any

from gpurescue.recovery import frames
from gpurescue.recovery.suspension import HeldFrame, Suspension
from gpurescue.source import remainder as remainders
from gpurescue.source import transform
from gpurescue.source import tree as trees

_OUTER, _INNER = "__gr_outer__", "__gr_at__"


class FrameScope:
    """The variables of one function's suspended frame, as cells."""

    def __init__(self, held: Suspension, frame: HeldFrame) -> None:
        self.held = held
        self.frame = frame
        self.is_innermost = frame.index == 0 and held.iterator is None
        self.new_names = held.new_names.setdefault(frame.index, {})
        self._shared = held.live.cells if self.is_innermost else {}
        self._start = self._values()
        self._cells: dict[str, CellType] = {}

    def _values(self) -> dict[str, Any]:
        found = frames.read(self.frame.frame)
        if self.is_innermost:
            found |= self.held.live.extra
            found = {k: v for k, v in found.items() if k not in self.held.live.gone}
        return found | self.new_names

    @property
    def own_names(self) -> set[str]:
        """Every variable that the frame's code has, bound or not."""
        code = self.frame.frame.f_code
        found = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        return {n for n in found if n.isidentifier() and not trees.is_hidden(n)}

    @property
    def names(self) -> set[str]:
        """Every variable that code in the frame may mean."""
        return self.own_names | set(self._start)

    def run(self, code: CodeType) -> Any:
        """Run code made by ``compile_at``; its value is that of the last expression."""
        for name in code.co_freevars:
            self._cells[name] = self._cell(name)
        closure = tuple(self._cells[name] for name in code.co_freevars)
        function = FunctionType(
            code, self.frame.frame.f_globals, code.co_name, None, closure
        )
        try:
            return function()
        finally:
            self._write_back()

    def _cell(self, name: str) -> CellType:
        if name in self._shared:
            return self._shared[name]
        return CellType(self._start[name]) if name in self._start else CellType()

    def _write_back(self) -> None:
        changed: dict[str, Any] = {}
        own = self.own_names
        for name, cell in self._cells.items():
            if name in self._shared:
                continue
            try:
                value = cell.cell_contents
            except ValueError:
                self._delete(name)
                continue
            if name in self._start and self._start[name] is value:
                continue
            self._keep(name)
            (changed if name in own else self.new_names)[name] = value
        if changed:
            frames.write(self.frame.frame, changed)

    def _keep(self, name: str) -> None:
        live = self.held.live
        if self.is_innermost and name in live.gone:
            self.held.live = dataclasses.replace(live, gone=live.gone - {name})

    def _delete(self, name: str) -> None:
        if name not in self._start:
            return
        self.new_names.pop(name, None)
        live = self.held.live
        if self.is_innermost:
            live.extra.pop(name, None)
            self.held.live = dataclasses.replace(live, gone=live.gone | {name})


def compile_at(
    tree: ast.Module, scope: FrameScope, filename: str, *, flags: int
) -> CodeType:
    """Compile a cell to run in the frame of ``scope``.

    Raises:
        SyntaxError: As the cell itself would.
    """
    compile(tree, filename, "exec", flags, True)  # no `return` and the like
    body = _value_of_last(tree.body)
    function = _function(_INNER, body)
    declared = remainders.declared_globals(function)
    if isinstance(scope.frame.definition.scope, trees.Function):
        declared |= remainders.declared_globals(scope.frame.definition.scope)
    function.body = remainders.without_declarations(body)
    assigned = _local_names(function, filename, flags)
    names = sorted((scope.names | assigned) - declared)
    function.body = [*_declarations(declared, names), *function.body]
    outer = _function(_OUTER, [*map(_assign, names), function])
    module = _module(outer)
    code = _find(compile(module, filename, "exec", flags, True), _INNER)
    # To tracebacks it is a cell like any other.
    return code.replace(co_name="<module>", co_qualname="<module>", co_firstlineno=1)


def _value_of_last(body: list[ast.stmt]) -> list[ast.stmt]:
    if not body or not isinstance(body[-1], ast.Expr):
        return body
    last = ast.copy_location(ast.Return(value=body[-1].value), body[-1])
    return [*body[:-1], last]


def _local_names(function: ast.FunctionDef, filename: str, flags: int) -> set[str]:
    """What the code assigns, by asking the compiler."""
    module = _module(function)
    code = _find(compile(module, filename, "exec", flags, True), _INNER)
    return set(transform.cells_of(code)) | set(code.co_varnames)


def _function(name: str, body: list[ast.stmt]) -> ast.FunctionDef:
    template = ast.parse(f"def {name}(): pass").body[0]
    assert isinstance(template, ast.FunctionDef)
    template.body = body or [ast.Pass()]
    return template


def _module(function: ast.FunctionDef) -> ast.Module:
    return ast.fix_missing_locations(ast.Module(body=[function], type_ignores=[]))


def _declarations(declared: set[str], names: list[str]) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    if declared:
        found.append(ast.Global(names=sorted(declared)))
    if names:
        found.append(ast.Nonlocal(names=names))
    return found


def _assign(name: str) -> ast.stmt:
    return ast.Assign(
        targets=[ast.Name(id=name, ctx=ast.Store())], value=ast.Constant(value=None)
    )


def _find(code: CodeType, name: str) -> CodeType:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name == name:
                return constant
            if constant.co_name == _OUTER:
                return _find(constant, name)
    raise LookupError(name)
