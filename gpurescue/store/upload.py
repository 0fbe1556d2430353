"""Copy tensors into live ones, to a GPU by way of pinned memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PIECE = 32 * 2**20  # bytes of one pinned buffer, of which there are two


def copy(live: Sequence[Any], sources: Sequence[Any]) -> None:
    """Copy each source into its live tensor; to be called without gradients.

    Args:
        live: Tensors on any device.
        sources: Of the same shapes and dtypes, on the CPU.
    """
    far: dict[Any, list[tuple[Any, Any]]] = {}
    for to, source in zip(live, sources, strict=True):
        if to.is_cuda and to.is_contiguous() and source.is_contiguous():
            far.setdefault(to.device, []).append((to, source))
        else:
            _copy(to, source)
    for device, pairs in far.items():
        _Stream(device).copy(pairs)


def _copy(to: Any, source: Any) -> None:
    import torch

    # An expanded tensor has one element for several, and is written once.
    once = tuple(slice(1) if step == 0 else slice(None) for step in to.stride())
    with torch.inference_mode(to.is_inference()), torch.no_grad():
        to[once].copy_(source[once])


class _Stream:
    """A side stream with two pinned buffers: one is filled while one is copied."""

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._stream = self._cuda.Stream(device)
        self._buffers = [
            torch.empty(_PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(2)
        ]
        self._free = [self._cuda.Event() for _ in self._buffers]

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        current = self._cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)  # what is under way still reads old values
        turn = 0
        for to, source in pairs:
            there, here = _bytes(to), _bytes(source)
            for start in range(0, here.numel(), _PIECE):
                piece = here[start : start + _PIECE]
                self._free[turn].synchronize()
                staged = self._buffers[turn][: piece.numel()].copy_(piece)
                with self._cuda.stream(self._stream):
                    there[start : start + _PIECE].copy_(staged, non_blocking=True)
                self._free[turn].record(self._stream)
                turn = 1 - turn
        current.wait_stream(self._stream)
        self._stream.synchronize()  # the buffers go


def _bytes(tensor: Any) -> Any:
    import torch

    return tensor.detach().reshape(-1).view(torch.uint8)
