"""An operation on lists that failed: whether it had changed any of the tensors.

Such an operation may fail with a part of the list done. It is tried on copies: one
that fails there in the same way, and changes none of them, had changed nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from typing import Any

from gpurescue.state.halfway.before import are_same
from gpurescue.state.halfway.places import Place, call_at

_PLAIN = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.UnaryOp, ast.BinOp, ast.List),
    *(ast.ListComp, ast.comprehension, ast.Tuple, ast.keyword),
    *(ast.expr_context, ast.operator, ast.unaryop),
)


def may_be_done(
    place: Place, names: Mapping[str, Any], scope: dict[str, Any], error: BaseException
) -> bool:
    """True if it was an operation on lists in place that may have done a part.

    Args:
        place: Where the frame that had called it stood.
        names: The variables of that frame.
        scope: Its globals.
        error: What was raised.
    """
    call = call_at(place)
    if call is None:
        return False
    try:
        function = _value(call.func, names, scope)
    except Exception:  # noqa: BLE001 - not plain: no operation on lists is called so
        return "_foreach" in ast.unparse(call.func)
    called = str(getattr(function, "__name__", ""))
    if not called.startswith(("_foreach_", "_fused_")) or not called.endswith("_"):
        return False
    try:
        arguments = [_copied(_value(node, names, scope)) for node in call.args]
        keywords = {k.arg: _value(k.value, names, scope) for k in call.keywords}
    except Exception:  # noqa: BLE001 - it cannot be tried
        return True
    if all(len(value) < 2 for value in arguments if isinstance(value, list)):
        return False
    return not _fails_whole(function, arguments, keywords, error)


def _fails_whole(
    function: Any, arguments: list[Any], keywords: Any, error: BaseException
) -> bool:
    before = [_copied(value) for value in arguments]
    try:
        function(*arguments, **keywords)
    except Exception as again:  # noqa: BLE001 - the failure is what is wanted
        is_same = type(again) is type(error) and again.args == error.args
        return is_same and all(map(_same, before, arguments))
    return False


def _value(node: ast.expr, names: Mapping[str, Any], scope: dict[str, Any]) -> Any:
    for inner in ast.walk(node):
        if not (isinstance(inner, _PLAIN) or _makes_tensor(inner)):
            raise ValueError(ast.unparse(node))
    code = compile(ast.Expression(node), "<argument>", "eval")
    return eval(code, {**scope, **names})


def _makes_tensor(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.tensor"


def _copied(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    is_tensor = isinstance(value, sys.modules["torch"].Tensor)
    return value.detach().clone() if is_tensor else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return all(map(_same, one, other))
    is_tensor = isinstance(one, sys.modules["torch"].Tensor)
    return not is_tensor or are_same(one, other)
