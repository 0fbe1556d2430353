"""What ``torch.compile`` has made, in a graph of objects: how to make it again.

Machine code stays behind; it is compiled again at the first call. torch pickles a
compiled module without most of its options, a compiled function with parts of the
compiler, and leaves out that ``Module.compile`` was called.
"""

from __future__ import annotations

import copyreg
import sys
from types import FunctionType
from typing import Any

_FRAMES = "torch._dynamo.eval_frame"
_BACKENDS = "torch._dynamo.backends.registry"
_ORIGINAL = "_torchdynamo_orig_callable"
_UNDER = ("_torchdynamo_orig_backend", _ORIGINAL)
_IN_PLACE = "_compiled_call_impl"
_new = copyreg.__newobj__  # type: ignore[attr-defined]

Reduced = tuple[Any, ...]


def reduced(value: Any) -> Reduced | None:
    """How something compiled is pickled, or a part of the compiler's; None if neither.

    Args:
        value: Any object.
    """
    frames = sys.modules.get(_FRAMES)
    if frames is None:
        return None
    if type(value) is FunctionType:
        return _of_function(value, frames)
    if type(value) is frames.OptimizedModule:
        state = {n: x for n, x in vars(value).items() if "hook" in n and x}
        given = value._orig_mod, _options(value.dynamo_ctx)
        return made, given, state, None, None, _add
    if type(value) is sys.modules["torch"]._TorchCompileWrapper:
        return _of_backend(value)
    if isinstance(value, sys.modules["torch"].nn.Module):
        return _of_module(value)
    return None


def _of_function(value: FunctionType, frames: Any) -> Reduced | None:
    if _ORIGINAL not in value.__dict__:
        return None
    names = value.__code__.co_freevars
    cells = dict(zip(names, value.__closure__ or (), strict=True))
    context = cells["self"].cell_contents if "self" in cells else None
    if type(context) is not frames.OptimizeContext:
        return None
    return made, (frames.innermost_fn(value), _options(context))


def _options(context: Any) -> dict[str, Any]:
    """What ``torch.compile`` was told; what it was not told stays torch's to decide."""
    backend = context.callback
    convert = None
    while under := [name for name in _UNDER if hasattr(backend, name)]:
        convert = convert or getattr(backend, "_recompile_limit", None)
        backend = getattr(backend, under[0])
    told = {
        "dynamic": context._dynamic,
        "guard_filter_fn": getattr(context._hooks, "guard_filter_fn", None),
        "error_on_graph_break": getattr(context, "error_on_graph_break", None),
        "shapes_spec": getattr(context, "_shapes_spec", None),
        "recompile_limit": convert,
        "isolate_recompiles": True
        if getattr(context, "_isolate_recompiles_id", -1) != -1
        else None,
    }
    known = {name: x for name, x in told.items() if x is not None}
    return {"backend": backend, "nopython": context.fullgraph, **known}


def made(original: Any, options: dict[str, Any]) -> Any:
    """It is compiled at its first call; called by the pickle."""
    import torch._dynamo

    return torch._dynamo.optimize(**options)(original)


def _add(module: Any, hooks: dict[str, Any]) -> None:
    for name, found in hooks.items():
        vars(module)[name] = found


def _of_backend(value: Any) -> Reduced:
    """A backend by its name, if it has one."""
    name, function = value.compiler_name, value.compiler_fn
    known = getattr(sys.modules.get(_BACKENDS), "_COMPILER_FNS", {})
    is_known = function is known.get(name)
    options = value.kwargs.get("mode"), value.kwargs.get("options"), value.dynamic
    return backend, (name if is_known else function, *options)


def backend(name: Any, mode: Any, options: Any, dynamic: Any) -> Any:
    """Called by the pickle."""
    import torch

    kind: Any = torch._TorchCompileWrapper
    return kind(name, mode, options, dynamic)


def _of_module(value: Any) -> Reduced | None:
    """A module that was compiled in place."""
    compiled = vars(value).get(_IN_PLACE)
    if compiled is None:
        return None
    maker, given, own, *rest = value.__reduce_ex__(5)
    if maker is not _new or any(rest):
        return None  # it has a way of its own
    return maker, given, (own, compiled), None, None, _set


def _set(module: Any, state: tuple[Any, Any]) -> None:
    own, compiled = state
    module.__setstate__(own)
    setattr(module, _IN_PLACE, compiled)
