"""Tensors that were computed with gradients, in another process.

Their value is kept, and what is behind it is not. They look as they did, and a backward
pass that comes to one is an error: without that it would end there in silence.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Hashable
from typing import Any

from gpurescue.errors import CannotResume

_MOST = 64  # operations that are looked at


def is_awaited(value: Any) -> bool:
    """True if a backward pass through what is behind a tensor seems to be to come.

    A pass lets go of what its operations have saved, and asking for that then is an
    error. Of the nearest operations the first that has saved anything tells.

    Args:
        value: A tensor that is no leaf.
    """
    waiting, seen = deque([value.grad_fn]), set[Any]()
    while waiting and len(seen) < _MOST:
        node = waiting.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        try:
            if _has_saved(node):
                return True
        except RuntimeError:
            return False
        waiting.extend(inner for inner, _ in node.next_functions)
    return False


def _has_saved(node: Any) -> bool:
    kind = sys.modules["torch"].Tensor
    operation: Any = type(node)
    for name in _names(operation):
        found = getattr(node, name)
        parts = found if isinstance(found, tuple | list) else (found,)
        if any(isinstance(part, kind) for part in parts):
            return True
    return False


@functools.cache
def _names(kind: Hashable) -> tuple[str, ...]:
    """What operations of a class call that which they save."""
    return tuple(
        name
        for name in dir(kind)
        if name.startswith("_saved_") or name == "saved_tensors"
    )


def computed(value: Any) -> Any:
    """A tensor that was computed elsewhere, in the memory of ``value``.

    Args:
        value: Its value, which requires no gradient.
    """
    torch = sys.modules["torch"]

    class Elsewhere(torch.autograd.Function):  # type: ignore[name-defined,misc]
        """Has no inputs that anybody knows."""

        @staticmethod
        def forward(ctx: Any, value: Any, _: Any) -> Any:
            """Give the value as it is."""
            ctx.mark_dirty(value)
            return value

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            """Refuse: nobody knows where to go on to."""
            raise CannotResume(
                "A backward pass has come to a value that was computed before the run "
                "was brought back: what is behind that is not in the checkpoint."
            )

    if not (value.is_floating_point() or value.is_complex()):
        return value
    with torch.enable_grad():
        return Elsewhere.apply(value, torch.zeros((), requires_grad=True))
