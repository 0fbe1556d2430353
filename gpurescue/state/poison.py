"""Errors after which a CUDA context takes no more commands: the process is lost.

The driver calls them sticky: every later call gives the same error, whatever is asked.
"""

from __future__ import annotations

import re
import sys

# cudaError_t: what torch 2.8 and newer has as ``error_code``.
_STICKY = frozenset(
    {214, 220, 700, 701, 702, 710, 714, 715, 716, 717, 718, 719, 721, 999}
)
_TEXTS = re.compile(
    r"device-side assert|illegal memory access|illegal instruction|misaligned address|"
    r"uncorrectable (ECC|NVLink)|unspecified launch failure|hardware stack error|"
    r"invalid program counter|operation not supported on global/shared address space|"
    r"launch timed out|fallen off the bus|device (is|was) lost",
    re.IGNORECASE,
)
_OF_CUDA = re.compile(r"\bCUDA\b|\bcu(DNN|BLAS)_STATUS", re.IGNORECASE)
_MOST = 8  # exceptions behind each other


def of(error: BaseException) -> str:
    """What has made the device unusable for this process; empty if nothing has.

    Args:
        error: An exception, perhaps raised from the one that says it.
    """
    link: BaseException | None = error
    for _ in range(_MOST):
        if link is None:
            break
        if found := _of_one(link):
            return found
        link = link.__cause__ or link.__context__
    return ""


def _of_one(error: BaseException) -> str:
    torch = sys.modules.get("torch")
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    if not isinstance(error, RuntimeError | kind):
        return ""
    text = str(error)
    if getattr(error, "error_code", None) in _STICKY:
        return text.partition("\n")[0]
    if _OF_CUDA.search(text) and _TEXTS.search(text):
        return text.partition("\n")[0]
    return ""
