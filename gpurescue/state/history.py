"""Tensors that were computed with gradients, in another process.

Their value is kept, and what is behind it is not. They look as they did, and a backward
pass that comes to one is an error: without that it would end there in silence.
"""

from __future__ import annotations

import sys
from typing import Any

from gpurescue.errors import CannotResume


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
