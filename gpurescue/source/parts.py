"""What of a statement runs in its frame, in the order in which it runs.

Of a compound statement that is its header. Functions, classes and comprehensions in
it are frames of their own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

EFFECTS = ast.Call | ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_DISPLAYS = ast.ListComp | ast.SetComp | ast.DictComp
_SEQUENCES = ast.Tuple | ast.List

# What they give can be iterated over, or has a truth value, whatever it is.
_ITERABLES = {"range", "enumerate", "zip", "reversed", "sorted", "map", "list"}
_PREDICATES = {"isinstance", "issubclass", "callable", "hasattr", "len", "any", "all"}


@dataclass(frozen=True, slots=True)
class Part:
    """A subexpression in its place.

    Attributes:
        node: The subexpression.
        waits: True if a call runs between it and its use.
        rule: Its place. ``call`` is that of an argument, ``callee`` that of what is
            called. Nothing can fail behind ``last``. ``stored`` is stored bit by bit,
            or looked at again. ``head`` is used by the statement itself. What comes
            behind ``decided`` does not use it. ``no`` cannot be kept.
    """

    node: ast.expr
    waits: bool = False
    rule: str = ""


def parts(node: ast.AST) -> list[Part]:
    """The subexpressions next below ``node``, in the order they run."""
    found: list[Part] = []
    behind = False
    for child, rule in reversed(list(_below(node))):
        found.append(Part(child, behind and rule != "decided", rule))
        behind = behind or has_effects(child)
    return found[::-1]


def in_order(node: ast.AST) -> Iterator[ast.expr]:
    """Every subexpression of ``node``, in the order in which they get a value."""
    for part in parts(node):
        yield from in_order(part.node)
        yield part.node


def is_effect(node: ast.AST) -> bool:
    """Tell whether ``node`` itself does more than give a value."""
    if isinstance(node, _DISPLAYS):
        return any(isinstance(inner, EFFECTS) for inner in ast.walk(node))
    return isinstance(node, EFFECTS)


def has_effects(node: ast.AST) -> bool:
    """Tell whether ``node``, or what of it runs in this frame, has effects."""
    return is_effect(node) or any(has_effects(child) for child, _ in _below(node))


def stores(target: ast.expr) -> list[ast.expr]:
    """The places that one target stores into, in order."""
    if isinstance(target, ast.Starred):
        return stores(target.value)
    if isinstance(target, _SEQUENCES):
        return [store for inner in target.elts for store in stores(inner)]
    return [target]


Places = Iterator[tuple[ast.expr, str]]


def _below(node: ast.AST) -> Places:
    """(subexpression, rule) in the order they run."""
    found = _SPECIAL.get(type(node))
    if found is not None:
        yield from found(node)
    elif isinstance(node, ast.expr | ast.Delete | ast.Raise):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield child, ""


def _of_call(node: ast.Call) -> Places:
    yield node.func, "callee"
    for argument in (*node.args, *(k.value for k in node.keywords)):
        yield argument, "call"


def _of_dict(node: ast.Dict) -> Places:
    for key, value in zip(node.keys, node.values, strict=True):
        if key is not None:
            yield key, ""
        yield value, ""


def _of_formatted(node: ast.FormattedValue) -> Places:
    yield node.value, ""
    if node.format_spec is not None:
        yield node.format_spec, "no"


def _of_arguments(node: ast.arguments) -> Places:
    for default in (*node.defaults, *node.kw_defaults):
        if default is not None:
            yield default, ""


def _of_value(node: ast.Expr | ast.Return) -> Places:
    if node.value is not None:
        yield node.value, "last"


def _of_assign(node: ast.Assign) -> Places:
    is_plain = all(isinstance(target, ast.Name) for target in node.targets)
    yield node.value, "last" if is_plain else _stored(node.targets)
    yield from ((target, "") for target in node.targets)


def _of_annotated(node: ast.AnnAssign) -> Places:
    if node.value is not None:
        yield node.value, "last" if isinstance(node.target, ast.Name) else ""
        yield node.target, ""


def _of_assert(node: ast.Assert) -> Places:
    yield node.test, _head(node.test, _PREDICATES)
    if node.msg is not None:
        yield node.msg, "decided"


def _of_match(node: ast.Match) -> Places:
    yield node.subject, "stored"
    for case in node.cases:
        if case.guard is not None:
            yield case.guard, "decided"


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Places:
    yield from ((decorator, "head") for decorator in node.decorator_list)
    yield from _of_arguments(node.args)


def _of_class(node: ast.ClassDef) -> Places:
    yield from ((decorator, "head") for decorator in node.decorator_list)
    for value in (*node.bases, *(keyword.value for keyword in node.keywords)):
        yield value, ""


def _of_with(node: ast.With | ast.AsyncWith) -> Places:
    # A manager that failed while it was entered cannot be entered again.
    yield node.items[0].context_expr, "last"


def _nothing(node: ast.AST) -> Places:
    yield from ()


def _decided(*nodes: ast.expr) -> Places:
    yield from ((node, "decided") for node in nodes)


_SPECIAL: dict[type[ast.AST], Callable[[Any], Places]] = {
    ast.Call: _of_call,
    ast.Await: lambda node: iter([(node.value, "no")]),
    ast.IfExp: lambda node: _decided(node.test, node.body, node.orelse),
    ast.BoolOp: lambda node: _decided(*node.values),
    ast.Dict: _of_dict,
    ast.Lambda: lambda node: _of_arguments(node.args),
    ast.NamedExpr: lambda node: iter([(node.value, "")]),
    ast.FormattedValue: _of_formatted,
    ast.ListComp: _nothing,
    ast.SetComp: _nothing,
    ast.DictComp: _nothing,
    ast.GeneratorExp: _nothing,
    ast.Expr: _of_value,
    ast.Return: _of_value,
    ast.Assign: _of_assign,
    ast.AugAssign: lambda node: iter([(node.target, ""), (node.value, "")]),
    ast.AnnAssign: _of_annotated,
    ast.Assert: _of_assert,
    ast.If: lambda node: iter([(node.test, _head(node.test, _PREDICATES))]),
    ast.While: lambda node: iter([(node.test, _head(node.test, _PREDICATES))]),
    ast.For: lambda node: iter([(node.iter, _head(node.iter, _ITERABLES))]),
    ast.AsyncFor: lambda node: iter([(node.iter, "head")]),
    ast.With: _of_with,
    ast.AsyncWith: _of_with,
    ast.Match: _of_match,
    ast.FunctionDef: _of_function,
    ast.AsyncFunctionDef: _of_function,
    ast.ClassDef: _of_class,
}


def _stored(targets: Sequence[ast.expr]) -> str:
    """The rule for a value that is stored bit by bit: a store may fail behind one."""
    found = [store for target in targets for store in stores(target)]
    is_name = [isinstance(store, ast.Name) for store in found]
    return "stored" if not all(is_name[1:]) else ""


def _head(node: ast.expr, harmless: Set[str]) -> str:
    """The rule for what a header uses: its use cannot fail for some functions."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return "last" if node.func.id in harmless else "head"
    return "head"
