"""Objects of libraries that pickle leaves something out of, or refuses.

An optimizer pickles what a state dict has, and no more: LBFGS then lacks its list of
parameters, and a scheduler takes its optimizer for one that was replaced. A scaler
pickles numbers in the place of its tensors. A module with parametrizations has a class
of its own, which cannot be found by name, and hooks on loading lose theirs. A ``Bunch``
of scikit-learn, which is what a data set comes in, leaves its attributes out.
"""

from __future__ import annotations

import functools
import sys
import weakref
from typing import Any

from gpurescue.state import compiled

_STEP = "step"
_WRAPPED = "_wrapped_by_lr_sched"
_PARAMETRIZE = "torch.nn.utils.parametrize"
_BUNCH = "sklearn.utils._bunch"

Reduced = tuple[Any, ...]


def reduced(value: Any) -> Reduced | None:
    """How such an object is pickled; None for any other."""
    if type(value).__module__ == _BUNCH:
        return *value.__reduce_ex__(5)[:5], _fill
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.optim.Optimizer):
        is_plain = type(value).__getstate__ is torch.optim.Optimizer.__getstate__
        return _of_optimizer(value) if is_plain else None
    if isinstance(value, torch.amp.GradScaler) and not value._per_optimizer_states:
        return bare, (type(value),), dict(vars(value)), None, None, _fill
    if type(value) is torch.nn.modules.module._WrappedHook:
        module = value.module() if value.with_module else None
        return bare, (type(value),), (value.hook, module), None, None, _wrap
    if isinstance(value, torch.nn.Module) and type(value).__module__ == _PARAMETRIZE:
        return _of_parametrized(value)
    return compiled.reduced(value)


def bare(kind: Any) -> Any:
    """An object of that kind with nothing in it."""
    return object.__new__(kind)


def _fill(value: Any, state: dict[str, Any]) -> None:
    vars(value).update(state)


def _wrap(value: Any, state: tuple[Any, Any]) -> None:
    value.__init__(*state)


def _of_optimizer(value: Any) -> Reduced:
    own = dict(vars(value))
    is_wrapped = hasattr(own.get(_STEP), _WRAPPED)
    if is_wrapped:
        del own[_STEP]  # it holds the optimizer weakly
    return bare, (type(value),), (own, is_wrapped), None, None, _set_up


def _of_parametrized(value: Any) -> Reduced | None:
    parametrize = sys.modules[_PARAMETRIZE]
    if not parametrize.is_parametrized(value):
        return None  # a list of parametrizations
    kind = parametrize.type_before_parametrizations(value)
    return bare, (kind,), dict(vars(value)), None, None, _parametrize


def _set_up(optimizer: Any, state: tuple[dict[str, Any], bool]) -> None:
    own, is_wrapped = state
    optimizer.__setstate__(own)
    if is_wrapped:
        _count_steps(optimizer)


def _count_steps(optimizer: Any) -> None:
    """As schedulers of torch do, to warn who steps them first."""
    held, plain = weakref.ref(optimizer), type(optimizer).step

    @functools.wraps(plain)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        found: Any = held()
        found._opt_called = True
        return plain(found, *arguments, **options)

    setattr(wrapper, _WRAPPED, True)
    optimizer.step = wrapper


def _parametrize(module: Any, state: dict[str, Any]) -> None:
    from torch.nn.utils import parametrize

    vars(module).update(state)
    parametrize._inject_new_class(module)
    for name in module.parametrizations:
        parametrize._inject_property(module, name)
