"""What C code does with an exception out of the lookup of an attribute.

A lookup hands on what the getter, ``__getattr__`` or ``__getattribute__`` raises, but
for an AttributeError where there is a ``__getattr__`` to ask instead. A getter that is
C code of an extension may call anything and swallow what it raises: a cached property
of Cython asks for its cache in that way.
"""

from __future__ import annotations

from types import FunctionType, ModuleType, WrapperDescriptorType
from typing import Any, Final

from gpurescue.recovery.handlers import values
from gpurescue.recovery.handlers.abstract import Value
from gpurescue.recovery.handlers.calls import is_from_c
from gpurescue.recovery.handlers.crossing import Crossing, is_version_of
from gpurescue.recovery.handlers.objects import inherits, is_any, is_class, lookup
from gpurescue.recovery.handlers.origins import is_plain_function, is_plain_type
from gpurescue.recovery.handlers.paths import Undecided

_GETTER_OF: Final[Any] = property.__dict__["fget"].__get__
_ASKED_BY_NAME: Final = ("__getattr__", "__getattribute__")
_OVERRIDES: Final = ("__torch_function__", "__torch_dispatch__")


def looked_up(crossing: Crossing, owner: Any, name: str) -> list[Value]:
    """What arrives of an exception out of the lookup of ``owner.name``."""
    if not _is_asked_directly(crossing, owner, name):
        raise Undecided("the C code of an attribute may be probing")
    if not crossing.is_kind(AttributeError):
        return crossing.passes()
    has_fallback, fallback = lookup(type(owner), "__getattr__")
    if has_fallback:
        is_itself = is_version_of(fallback, crossing.inner.f_code)
        return crossing.passes() if is_itself or crossing.name == "__getattr__" else []
    _, lookup_method = lookup(type(owner), "__getattribute__")
    if is_any(type(lookup_method), (FunctionType, WrapperDescriptorType)):
        return crossing.passes()
    raise Undecided("an attribute lookup of unknown C code")


def _is_asked_directly(crossing: Crossing, owner: Any, name: str) -> bool:
    """Whether no C code of an extension stands between the lookup and ``inner``."""
    if crossing.name in _OVERRIDES or not values.available():
        return True
    if crossing.name in _ASKED_BY_NAME:
        asked = [value for value in crossing.arguments if type(value) is str]
        if name in asked:
            return True
    descriptor = _descriptor(owner, name)
    if _is_getter_of(crossing, descriptor):
        return True
    return is_plain_type(type(owner)) and _is_plain_descriptor(descriptor)


def _descriptor(owner: Any, name: str) -> Any:
    """What the class of ``owner`` has under ``name``."""
    found, value = lookup(type(owner), name)
    if not found and is_class(owner):
        found, value = lookup(owner, name)
    return value


def _is_getter_of(crossing: Crossing, descriptor: Any) -> bool:
    code = crossing.inner.f_code
    if inherits(type(descriptor), property):
        return is_version_of(_GETTER_OF(descriptor), code)
    return is_version_of(lookup(type(descriptor), "__get__")[1], code)


def _is_plain_descriptor(descriptor: Any) -> bool:
    if inherits(type(descriptor), property):
        descriptor = _GETTER_OF(descriptor)
    if inherits(type(descriptor), ModuleType):
        return True
    is_callable = is_from_c(descriptor) or not is_plain_type(type(descriptor))
    return not is_callable or is_plain_function(descriptor)
