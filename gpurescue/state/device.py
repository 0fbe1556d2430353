"""What recovery needs to know of torch: the modes that belong to a thread.

torch is looked up, never imported: without it there is nothing to carry over.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from gpurescue.protocols import Rollback
from gpurescue.state import failure, poison
from gpurescue.state.journal import Journal
from gpurescue.state.loaders import watching

_log = logging.getLogger(__name__)
_kept = threading.local()

Apply = Callable[[], None]


class TorchRuntime:
    """The ``DeviceRuntime`` of torch."""

    def capture_modes(self) -> Apply:
        """Read the calling thread's modes; the result applies them in another.

        Gradients, inference mode, autocast, torch function modes (``with
        torch.device(...)``, ``set_default_device``), and the CUDA device and stream.
        """
        torch = sys.modules.get("torch")
        if torch is None:
            return lambda: None
        found = [mode for read in _READERS if (mode := _tried(read, torch))]

        def apply() -> None:
            for mode in found:
                _tried(mode)

        return apply

    def lost(self, error: BaseException) -> str:
        """Why the device takes no more commands of this process; empty if it does."""
        return poison.of(error)

    def journal(self, *, keeps_parameters: bool) -> Journal:
        """A journal for one run."""
        return Journal(keeps_parameters=keeps_parameters)

    def memory(self) -> dict[str, int]:
        """Bytes in use now: by tensors on each CUDA device, and by the process."""
        found = {"host": _resident()}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            for index in range(torch.cuda.device_count()):
                found[f"cuda:{index}"] = torch.cuda.memory_allocated(index)
        return found

    def watch(self, hold: watching.Hold) -> Callable[[], None]:
        """Have a DataLoader that fails hold the run; the result ends it."""
        return watching.watch(hold)

    def rollbacks(self, error: BaseException, frame: FrameType) -> tuple[Rollback, ...]:
        """What the library calls that ``error`` came out of had half done."""
        return failure.rollbacks(error, frame)


def _resident() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _tried(step: Callable[..., Any], *arguments: ModuleType) -> Any:
    """A mode that this version of torch does not have is no reason not to run."""
    try:
        return step(*arguments)
    except Exception:  # noqa: BLE001
        _log.warning("A torch mode was not carried over.", exc_info=True)
        return None


def _gradients(torch: ModuleType) -> Apply:
    is_enabled = torch.is_grad_enabled()
    return lambda: torch._C._set_grad_enabled(is_enabled)


def _inference(torch: ModuleType) -> Apply | None:
    if not torch.is_inference_mode_enabled():
        return None

    def apply() -> None:
        # Left when the thread ends: it must be let go of in that same thread.
        _kept.inference = torch.inference_mode(True)
        _kept.inference.__enter__()

    return apply


def _autocast(torch: ModuleType) -> Apply:
    kinds = [k for k in ("cpu", "cuda") if k == "cpu" or torch.cuda.is_available()]
    states = [
        (k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds
    ]
    is_cached = torch.is_autocast_cache_enabled()

    def apply() -> None:
        for kind, is_enabled, dtype in states:
            torch.set_autocast_enabled(kind, is_enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(is_cached)

    return apply


def _function_modes(torch: ModuleType) -> Apply | None:
    """``torch.device`` blocks and ``set_default_device`` are such modes."""
    modes = torch.overrides._get_current_function_mode_stack()
    if not modes:
        return None
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)

    def apply() -> None:
        for mode in modes:
            if default is not None and mode is default:
                torch.set_default_device(mode.device)
            else:
                torch._C._push_on_torch_function_stack(mode)

    return apply


def _cuda(torch: ModuleType) -> Apply | None:
    if not torch.cuda.is_initialized():
        return None
    device, stream = torch.cuda.current_device(), torch.cuda.current_stream()

    def apply() -> None:
        torch.cuda.set_device(device)
        torch.cuda.set_stream(stream)

    return apply


_READERS = (_gradients, _inference, _autocast, _function_modes, _cuda)
