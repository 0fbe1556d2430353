"""Settings of torch that decide what a program computes, as plain data.

Some belong to a thread, such as whether gradients are recorded, others to the process,
such as how many threads add up a sum: another number gives other bits.
"""

from __future__ import annotations

import sys
from typing import Any

_KINDS = ("cpu", "cuda")


def read() -> dict[str, Any]:
    """The settings, as the calling thread has them; empty without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return {
        "gradients": torch.is_grad_enabled(),
        "autocast": [
            (k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k))
            for k in _KINDS
        ],
        "autocast_cache": torch.is_autocast_cache_enabled(),
        "autocast_nesting": nesting,
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
    }


def write(found: dict[str, Any]) -> None:
    """Have settings that ``read`` has read, in the calling thread."""
    torch = sys.modules.get("torch")
    if torch is None or not found:
        return
    torch._C._set_grad_enabled(found["gradients"])
    for kind, is_enabled, dtype in found["autocast"]:
        torch.set_autocast_enabled(kind, is_enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(found["autocast_cache"])
    for _ in range(found["autocast_nesting"]):
        torch.autocast_increment_nesting()
    torch.set_default_dtype(found["dtype"])
    torch.set_num_threads(found["threads"])
    torch.use_deterministic_algorithms(found["deterministic"])
    torch.set_float32_matmul_precision(found["matmul"])
    cudnn = torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark = found["cudnn"]
