"""Modules, optimizers and data loaders of torch in one line each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from gpurescue.diagnosis import reflection
from gpurescue.diagnosis.arrays import number
from gpurescue.diagnosis.reflection import is_exactly, library_type, type_name
from gpurescue.diagnosis.result import Kind, Summary

MAX_MODULES = 20_000
MAX_SETTINGS = 4


def read(value: object) -> Summary | None:
    """Describe a module, an optimizer or a data loader; None if it is none."""
    if library_type(value, "torch.nn", "Module"):
        return _module(value)
    if library_type(value, "torch.optim", "Optimizer"):
        return _optimizer(value)
    if library_type(value, "torch.utils.data", "DataLoader"):
        return _loader(value)
    return None


def _module(value: object) -> Summary:
    torch: Any = sys.modules["torch"]
    own = reflection.instance_dict(value)
    found = {id(p): p for p in _parameters(value)}
    with torch._C.DisableTorchFunction():
        count = sum(torch.Tensor.numel(p) for p in found.values())
        places = sorted({str(torch.Tensor.device.__get__(p)) for p in found.values()})
    words = [type_name(value) + _settings(own), f"{count:,} parameters"]
    if places:
        words.append("on " + " and ".join(places[:4]))
    if type(own.get("training")) is bool:
        words.append("train mode" if own["training"] else "eval mode")
    return Summary(kind=Kind.MODEL, text=", ".join(words))


def _parameters(module: object) -> Iterator[Any]:
    """Every parameter below ``module``, without calling any of its methods."""
    waiting, seen = [module], {id(module)}
    while waiting and len(seen) < MAX_MODULES:
        own = reflection.instance_dict(waiting.pop())
        parameters, children = own.get("_parameters"), own.get("_modules")
        for found in _values(parameters):
            if library_type(found, "torch", "Tensor"):
                yield found
        for child in _values(children):
            if library_type(child, "torch.nn", "Module") and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)


def _values(found: object) -> list[Any]:
    base: Any = dict
    return list(base.values(found)) if reflection.is_a(found, dict) else []


def _settings(own: dict[str, Any]) -> str:
    """The plain numbers that a module was made with, such as ``in_features``."""
    found = [
        f"{key}={value!r}"
        for key, value in own.items()
        if type(key) is str and key[:1] != "_" and _is_setting(key, value)
    ]
    return f"({', '.join(found[:MAX_SETTINGS])})" if found else ""


def _is_setting(key: str, value: object) -> bool:
    if key == "training" or len(key) > reflection.MAX_NAME:
        return False
    if type(value) is tuple:
        return 0 < len(value) <= MAX_SETTINGS and all(_is_small(v) for v in value)
    return _is_small(value)


def _is_small(value: Any) -> bool:
    if type(value) is int:
        return -(10**12) < value < 10**12
    return type(value) is float


def _optimizer(value: object) -> Summary:
    groups = reflection.instance_dict(value).get("param_groups")
    groups = groups if type(groups) is list else []
    rates = [_rate(g.get("lr")) for g in groups if type(g) is dict]
    known = list(dict.fromkeys(rate for rate in rates if rate))
    words = [type_name(value)]
    if known:
        words.append("lr " + ", ".join(known[:MAX_SETTINGS]))
    if len(groups) != 1:
        words.append(f"{len(groups)} groups")
    return Summary(kind=Kind.OPTIMIZER, text=", ".join(words))


def _rate(value: Any) -> str:
    return number(value) if is_exactly(value, int, float) else ""


def _loader(value: object) -> Summary:
    own = reflection.instance_dict(value)
    dataset, size = own.get("dataset"), own.get("batch_size")
    samples = _num_samples(dataset)
    words = [f"{type_name(value)} of {type_name(dataset)}"]
    if samples is not None:
        words[0] += f" ({samples:,} samples)"
    if type(size) is int and size > 0:
        words.append(f"batch_size {size}")
        if samples is not None and _visits_each_once(own):
            full, rest = divmod(samples, size)
            batches = full + (1 if rest and own.get("drop_last") is False else 0)
            words.append(f"{batches:,} batches")
    return Summary(kind=Kind.LOADER, text=", ".join(words))


def _num_samples(dataset: Any) -> int | None:
    """Length of a dataset whose ``__len__`` is no user's; None if it is not known."""
    if is_exactly(dataset, list, tuple, range):
        return len(dataset)
    data: Any = sys.modules["torch.utils.data"]
    own = reflection.instance_dict(dataset)
    if is_exactly(dataset, data.TensorDataset):
        tensors, torch = own["tensors"], sys.modules["torch"]
        is_plain = bool(tensors) and type(tensors[0]) is torch.Tensor
        return int(torch.Tensor.size(tensors[0], 0)) if is_plain else None
    if is_exactly(dataset, data.Subset) and is_exactly(own["indices"], list, range):
        return len(own["indices"])
    return None


def _visits_each_once(own: dict[str, Any]) -> bool:
    data: Any = sys.modules["torch.utils.data"]
    batches, sampler = own.get("batch_sampler"), own.get("sampler")
    if not is_exactly(batches, data.BatchSampler):
        return False
    drawn = reflection.instance_dict(sampler).get("_num_samples")
    known = is_exactly(sampler, data.SequentialSampler, data.RandomSampler)
    return known and drawn is None
