"""Whether running a part of a statement again would show.

A statement that goes on half-way reads some of its parts again: variables, attributes,
operators on what has a value. Nobody can tell the difference, unless code of the
user's runs by that, an iterator gives its items, or another value is found there by
now. Those are the cases that this finds.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from gpurescue.recovery import frames, reach
from gpurescue.recovery.suspension import HeldFrame
from gpurescue.source import cells, names, parts, residual
from gpurescue.source.operands import Operand
from gpurescue.source.residual import Failure

_UNKNOWN = object()

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.MatMult: "matmul",
    ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod", ast.Pow: "pow",
    ast.LShift: "lshift", ast.RShift: "rshift", ast.BitOr: "or", ast.BitXor: "xor",
    ast.BitAnd: "and", ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le",
    ast.Gt: "gt", ast.GtE: "ge", ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert",
}  # fmt: skip
_TRUTH = ("__bool__", "__len__")
_ITEMS = ("__iter__", "__next__", "__getitem__", "__len__", "keys")
_TEXT = ("__format__", "__str__", "__repr__")
_HARMLESS = {
    "len",
    "abs",
    "min",
    "max",
    "int",
    "float",
    "bool",
    "isinstance",
    "getattr",
}
_HARMFUL = (
    ast.Await, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.Import,
    ast.ImportFrom, ast.AugAssign, ast.With, ast.AsyncWith, ast.ClassDef,
)  # fmt: skip


def reason(held: HeldFrame, failed: Failure, new: ast.stmt) -> str | None:
    """Why ``new`` in the place of the failed statement would not be exact.

    None if nothing that has run already shows when it runs again.
    """
    if failed.at is None:
        return "it is not known which part of it failed" if failed.done else None
    values = _Values(held.frame, failed)
    known = {id(inner) for operand in failed.done for inner in ast.walk(operand.node)}
    for node in _run_again(failed):
        if id(node) in known:
            continue
        found = values.shows(node) or values.changed(node)
        if found is not None and _says(new, node):
            return f"`{ast.unparse(node)[:60]}` {found}"
    return None


def is_got_again(frame: FrameType, failed: Failure, operand: Operand) -> bool:
    """True of an item that is got again, as somebody may have mended it by now.

    So it is where nobody sees that, and no call of the statement may have changed it.
    """
    node = operand.node
    if not isinstance(node, ast.Subscript) or parts.has_effects(node):
        return False
    values = _Values(frame, failed)
    owner = values.value(node.value)
    if owner is _UNKNOWN or values.has_effects_behind(node):
        return False
    return not isinstance(_in_class(type(owner), "__getitem__"), FunctionType)


def _says(new: ast.stmt, node: ast.expr) -> bool:
    text = ast.dump(node)
    return any(
        type(inner) is type(node) and ast.dump(inner) == text for inner in ast.walk(new)
    )


def _run_again(failed: Failure) -> Iterator[ast.expr]:
    assert failed.at is not None
    yield from residual.before(failed.node, failed.at)
    if isinstance(failed.at, parts.COMPREHENSIONS):
        yield failed.at


class _Values:
    """What the parts of a failed statement are, without running any of them."""

    def __init__(self, frame: FrameType, failed: Failure) -> None:
        self._names: Mapping[str, Any] = {
            **frame.f_builtins,
            **frame.f_globals,
            **frames.read(frame),
        }
        self._failed = failed
        self._ready = {
            id(operand.node): failed.values[operand.slot] for operand in failed.done
        }
        self._later = _effects_behind(failed)

    def shows(self, node: ast.expr) -> str | None:
        """Say what would be seen of running ``node`` again; None if nothing."""
        for function in self._run_by(node):
            if not _is_plain(function.__code__):
                return f"would run {function.__qualname__} a second time"
        taken = self._taken_from(node)
        if taken is not None and hasattr(type(taken), "__next__"):
            return "has taken items from an iterator, and would take others"
        return None

    def has_effects_behind(self, node: ast.expr) -> bool:
        """True if a part that came behind ``node`` did more than give a value."""
        return bool(self._later.get(id(node)))

    def changed(self, node: ast.expr) -> str | None:
        """Say that ``node`` may have another value by now; None if it has not."""
        if isinstance(node, ast.Name) and (store := self._bound_behind(node)):
            return f"was changed by `{ast.unparse(store)[:60]}`"
        behind = self._later.get(id(node), ())
        if not behind:
            return None
        roots = [
            self._names[name]
            for operand in behind
            for name in names.mentioned(operand.node)
            if name in self._names
        ]
        roots += [self._ready[id(operand.node)] for operand in behind]
        if self._may_be_stored(node, roots):
            return f"may have been changed by `{ast.unparse(behind[-1].node)[:60]}`"
        return None

    def _bound_behind(self, node: ast.Name) -> ast.expr | None:
        """The assignment expression behind ``node`` that gave it another value."""
        assert self._failed.at is not None
        order = list(residual.before(self._failed.node, self._failed.at))
        behind = order[order.index(node) + 1 :] if node in order else []
        return next(
            (
                inner
                for inner in behind
                if isinstance(inner, ast.NamedExpr) and inner.target.id == node.id
            ),
            None,
        )

    def _may_be_stored(self, node: ast.expr, roots: list[Any]) -> bool:
        match node:
            case ast.Name():
                return reach.stores(roots, node.id, ("STORE_GLOBAL", "STORE_DEREF"))
            case ast.Attribute():
                return reach.stores(roots, node.attr, ("STORE_ATTR", "DELETE_ATTR"))
            case ast.Subscript():
                owner = self.value(node.value)
                return owner is _UNKNOWN or reach.leads_to(roots, owner)
        return False

    def value(self, node: ast.expr) -> Any:
        """The value of ``node``, or ``_UNKNOWN``."""
        if id(node) in self._ready:
            return self._ready[id(node)]
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self._names.get(node.id, _UNKNOWN)
            case ast.NamedExpr():
                return self._names.get(node.target.id, _UNKNOWN)
            case ast.Attribute():
                return _attribute(self.value(node.value), node.attr)
            case ast.Subscript():
                return _item(self.value(node.value), self.value(node.slice))
        return _UNKNOWN

    def _run_by(self, node: ast.expr) -> Iterator[FunctionType]:
        """Functions of the user's that running ``node`` calls by the way."""
        match node:
            case ast.Attribute():
                yield from _getters(self.value(node.value), node.attr)
            case ast.Subscript():
                yield from self._methods(node.value, ("__getitem__", "__missing__"))
            case ast.FormattedValue():
                yield from self._methods(node.value, _TEXT)
            case ast.Starred():
                yield from self._methods(node.value, _ITEMS)
            case ast.BoolOp(values=values):
                for inner in values:
                    yield from self._methods(inner, _TRUTH)
            case ast.IfExp():
                yield from self._methods(node.test, _TRUTH)
            case _:
                yield from self._operators(node)

    def _operators(self, node: ast.expr) -> Iterator[FunctionType]:
        match node:
            case ast.BinOp():
                name = _OPERATORS[type(node.op)]
                yield from self._methods(node.left, (f"__{name}__",))
                yield from self._methods(node.right, (f"__r{name}__",))
            case ast.UnaryOp():
                name = _OPERATORS.get(type(node.op), "")
                yield from self._methods(node.operand, (f"__{name}__", *_TRUTH))
            case ast.Compare():
                yield from self._compared(node)

    def _compared(self, node: ast.Compare) -> Iterator[FunctionType]:
        names = {f"__{_OPERATORS.get(type(op), 'eq')}__" for op in node.ops}
        for inner in (node.left, *node.comparators):
            yield from self._methods(inner, (*names, "__contains__"))

    def _methods(self, node: ast.expr, names: Iterable[str]) -> Iterator[FunctionType]:
        value = self.value(node)
        if value is not _UNKNOWN:
            for name in names:
                found = _in_class(type(value), name)
                if isinstance(found, FunctionType) and reach.is_users(found):
                    yield found

    def _taken_from(self, node: ast.expr) -> Any:
        """The iterator that ``node`` takes items from by itself."""
        match node:
            case ast.Starred():
                return self.value(node.value)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return self.value(node.generators[0].iter)
            case ast.Compare(ops=[ast.In() | ast.NotIn()]):
                return self.value(node.comparators[0])
            case ast.Tuple() | ast.List() if node is self._failed.at:
                statement = self._failed.node
                if isinstance(statement, ast.Assign):
                    return self.value(statement.value)
        return None


def _effects_behind(failed: Failure) -> dict[int, list[Operand]]:
    """For each part, the operands that got their values behind it."""
    assert failed.at is not None
    order = list(residual.before(failed.node, failed.at))
    places = {id(node): i for i, node in enumerate(order)}
    done = [(places.get(id(o.node), len(order)), o) for o in failed.done]
    done = [(i, o) for i, o in done if parts.has_effects(o.node)]
    return {
        id(node): [o for i, o in done if i > places.get(id(node), -1)] for node in order
    }


def _in_class(kind: type, name: str) -> Any:
    for base in type.__dict__["__mro__"].__get__(kind):
        attributes = type.__dict__["__dict__"].__get__(base)
        if name in attributes:
            return attributes[name]
    return None


def _getters(value: Any, name: str) -> Iterator[FunctionType]:
    """Functions of the user's that run to find an attribute."""
    if value is _UNKNOWN or isinstance(value, ModuleType):
        return
    found = _in_class(type(value), name)
    candidates = [_in_class(type(value), "__getattribute__")]
    if isinstance(found, property):
        candidates.append(found.fget)
    elif found is not None:
        candidates.append(_in_class(type(found), "__get__"))
    if found is None and name not in _own(value):
        candidates.append(_in_class(type(value), "__getattr__"))
    for candidate in candidates:
        if isinstance(candidate, FunctionType) and reach.is_users(candidate):
            yield candidate


def _own(value: Any) -> Mapping[str, Any]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _attribute(value: Any, name: str) -> Any:
    if value is _UNKNOWN:
        return _UNKNOWN
    if isinstance(value, type):
        found = _in_class(value, name)
        return _UNKNOWN if found is None or hasattr(found, "__get__") else found
    found = _in_class(type(value), name)
    if found is not None and hasattr(type(found), "__set__"):
        return _UNKNOWN
    return _own(value).get(name, _UNKNOWN)


def _item(value: Any, index: Any) -> Any:
    if type(value) in (list, tuple) and type(index) is int:
        return value[index] if -len(value) <= index < len(value) else _UNKNOWN
    if type(value) is dict and type(index) in (int, str):
        return value.get(index, _UNKNOWN)
    return _UNKNOWN


@functools.lru_cache(maxsize=256)
def _is_plain(code: CodeType) -> bool:
    """True of a function that only looks things up: nobody sees it run."""
    definition = cells.definition(code)
    return definition is not None and all(
        _is_harmless(node) for top in definition.scope.body for node in ast.walk(top)
    )


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _HARMLESS
    if isinstance(node, ast.Attribute | ast.Subscript):
        return isinstance(node.ctx, ast.Load)
    return not isinstance(node, _HARMFUL)
