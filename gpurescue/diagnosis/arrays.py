"""Tensors, arrays and tables in one line each.

Statistics are taken only from plain strided data in CPU memory, so nothing waits for
a GPU and no random number is drawn. Libraries are never imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpurescue.diagnosis import reflection
from gpurescue.diagnosis.reflection import library_type, type_name
from gpurescue.diagnosis.result import Budget, Kind, Summary

MAX_DIMENSIONS = 16
MAX_COLUMNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of the numbers in one array; the extremes and the mean are of the finite ones."""

    count: int
    num_true: int | None = None
    num_nan: int = 0
    num_inf: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None

    @property
    def words(self) -> list[str]:
        """What to say about the values, or about the finite ones."""
        if self.num_true is not None:
            return [f"{self.num_true:,} of {self.count:,} true"]
        if self.minimum is None or self.maximum is None or self.mean is None:
            return []
        return [
            f"min {number(self.minimum)}",
            f"max {number(self.maximum)}",
            f"mean {number(self.mean)}",
        ]

    @property
    def only_value(self) -> str:
        """The value, if there is one value only."""
        if self.num_true is not None:
            return str(bool(self.num_true))
        return "" if self.minimum is None else number(self.minimum)

    @property
    def warning(self) -> str:
        """What looks wrong: NaN and infinities."""
        if self.num_nan == self.count:
            return "all NaN"
        counts = ((self.num_nan, "NaN"), (self.num_inf, "inf"))
        return ", ".join(f"{n:,} {word}" for n, word in counts if n)


def number(value: float) -> str:
    """A number, short; large ones without decimals."""
    is_whole = isinstance(value, int) or value.is_integer() or abs(value) >= 1e4
    return f"{value:.0f}" if is_whole and abs(value) < 1e9 else f"{value:.4g}"


def read(value: object, budget: Budget | None) -> Summary | None:
    """Describe a tensor, an array, a NumPy scalar or a table; None if it is none.

    Args:
        value: Anything.
        budget: What may be spent on statistics; None for none.
    """
    if library_type(value, "torch", "Tensor"):
        return _tensor(value, budget)
    if library_type(value, "numpy", "ndarray"):
        return _array(value, budget)
    if library_type(value, "numpy", "generic"):
        return _scalar(value)
    return _constant(value) or _table(value)


def _shape(sizes: Any) -> str:
    shown = ", ".join(str(int(size)) for size in sizes[:MAX_DIMENSIONS])
    return f"[{shown}]" if len(sizes) <= MAX_DIMENSIONS else f"[{shown}, ...]"


def _described(kind: Kind, words: list[str], found: Statistics | None) -> Summary:
    if found is None:
        return Summary(kind=kind, text=", ".join(words))
    return Summary(
        kind=kind, text=", ".join([*words, *found.words]), warning=found.warning
    )


def _tried(
    measure: Callable[[Any, Budget], Statistics | None],
    value: Any,
    budget: Budget | None,
) -> Statistics | None:
    try:
        return None if budget is None else measure(value, budget)
    except Exception:  # noqa: BLE001 - not every dtype has every operation
        return None


# -- torch -----------------------------------------------------------------------


def _tensor(value: Any, budget: Budget | None) -> Summary:
    torch = sys.modules["torch"]
    name = "tensor" if type(value) is torch.Tensor else type_name(value)
    if _answers_itself(torch, type(value)):
        return Summary(kind=Kind.TENSOR, text=f"{name} (a tensor type of its own)")
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return _plain_tensor(torch, name, value, budget)


def _constant(value: Any) -> Summary | None:
    for name in ("device", "dtype"):
        if type(value) is reflection.library_class("torch", name):
            return Summary(kind=Kind.ATOM, text=f"{name} {value}")
    return None


def _answers_itself(torch: Any, cls: type) -> bool:
    """True if asking for a tensor's shape may run a user's ``__torch_dispatch__``."""
    for base in reflection.bases(cls):
        if base is torch.Tensor:
            return False
        found = reflection.namespace(base)
        if "__torch_dispatch__" in found:
            return not str(found.get("__module__")).startswith("torch.")
    return True


def _plain_tensor(torch: Any, name: str, value: Any, budget: Budget | None) -> Summary:
    plain = torch.Tensor
    kind = str(plain.dtype.__get__(value)).removeprefix("torch.")
    where = str(plain.device.__get__(value))
    needs_grad = ["requires grad"] if plain.requires_grad.__get__(value) else []
    if plain.is_nested.__get__(value):
        text = f"nested {name} of {plain.size(value, 0)}, {kind} {where}"
        return _described(Kind.TENSOR, [text, *needs_grad], None)
    sizes, note = plain.size(value), _layout(torch, value)
    can_read = not note and where == "cpu" and _is_plain(torch, type(value))
    found = _tried(_measured_tensor, value, budget) if can_read else None
    words = [f"{name} {_shape(sizes)} {kind} {where}", *note]
    if found and not sizes and found.only_value:
        words, found = [f"{name} {found.only_value} {kind} {where}"], None
    return _described(Kind.TENSOR, [*words, *needs_grad], found)


def _is_plain(torch: Any, cls: type) -> bool:
    """True if a tensor's bytes are its numbers, and not another tensor's."""
    own = (base for base in reflection.bases(cls) if base is not torch.Tensor)
    return not any("__torch_dispatch__" in reflection.namespace(b) for b in own)


def _layout(torch: Any, value: Any) -> list[str]:
    plain = torch.Tensor
    layout = str(plain.layout.__get__(value)).removeprefix("torch.")
    if plain.is_quantized.__get__(value):
        return ["quantized"]
    if layout == "sparse_coo":
        return [f"sparse, {plain._nnz(value):,} stored"]
    if layout != "strided":
        return [layout.replace("_", " ")]
    wrapped = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", None)
    return ["inside torch.func"] if wrapped and wrapped(value) else []


def _measured_tensor(value: Any, budget: Budget) -> Statistics | None:
    # Through NumPy: the bytes are shared, and no pool of threads is started, as each
    # operation of torch on a large tensor would do in the thread that looks.
    torch: Any = sys.modules["torch"]
    data = torch.Tensor.detach(value)
    if not data.numel() or data.dtype.is_complex or not budget.take(data.numel()):
        return None
    has_numpy_type = data.itemsize > 2 or not data.dtype.is_floating_point
    return _measure((data if has_numpy_type else data.to(torch.float32)).numpy())


# -- numpy -----------------------------------------------------------------------


def _array(value: Any, budget: Budget | None) -> Summary:
    np = sys.modules["numpy"]
    is_exact = type(value) is np.ndarray
    name = "array" if is_exact else type_name(value)
    sizes, dtype = np.ndarray.shape.__get__(value), np.ndarray.dtype.__get__(value)
    found = _tried(_measured_array, value, budget) if is_exact else None
    content = _shape(sizes)
    if found and not sizes and found.only_value:
        content, found = found.only_value, None
    return _described(Kind.ARRAY, [f"{name} {content} {dtype.name}"], found)


def _measured_array(value: Any, budget: Budget) -> Statistics | None:
    if value.dtype.kind not in "biuf" or not value.size or not budget.take(value.size):
        return None
    return _measure(value)


def _measure(data: Any) -> Statistics:
    np: Any = sys.modules["numpy"]
    if data.dtype.kind == "b":
        return Statistics(count=data.size, num_true=int(np.count_nonzero(data)))
    with np.errstate(all="ignore"):
        is_finite = bool(np.isfinite(data.min()) and np.isfinite(data.max()))
        inside = data if is_finite else data[np.isfinite(data)]
        num_nan = 0 if is_finite else int(np.count_nonzero(np.isnan(data)))
        return Statistics(
            count=data.size,
            num_nan=num_nan,
            num_inf=data.size - inside.size - num_nan,
            minimum=inside.min().item() if inside.size else None,
            maximum=inside.max().item() if inside.size else None,
            mean=inside.mean(dtype=np.float64).item() if inside.size else None,
        )


def _scalar(value: Any) -> Summary | None:
    cls = type(value)
    if reflection.library_class("numpy", reflection.class_name(cls)) is not cls:
        return None
    np = sys.modules["numpy"]
    if not reflection.is_a(value, np.number) and not reflection.is_a(value, np.bool_):
        return None
    text = f"{type_name(value)} {value.item()!r}"
    is_bad = reflection.is_a(value, np.inexact) and not np.isfinite(value)
    return Summary(kind=Kind.ATOM, text=text, warning="not finite" if is_bad else "")


# -- pandas ----------------------------------------------------------------------


def _table(value: Any) -> Summary | None:
    found = library_type(value, "pandas", "DataFrame", "Series", "Index")
    if found is None:
        return None
    name = type_name(value)
    if type(value) is not found:  # a subclass may answer with anything
        return Summary(kind=Kind.TABLE, text=f"{name} (pandas)")
    return Summary(kind=Kind.TABLE, text=_table_text(name, value))


def _table_text(name: str, value: Any) -> str:
    if name != "DataFrame":
        return f"{name} [{len(value)}] {value.dtype}"
    rows, columns = value.shape
    text = f"DataFrame [{rows}, {columns}]"
    names = [c for c in value.columns[:MAX_COLUMNS] if type(c) in (str, int)]
    if not names:
        return text
    more = ", ..." if columns > len(names) else ""
    return f"{text}: {', '.join(str(c)[: reflection.MAX_NAME] for c in names)}{more}"
