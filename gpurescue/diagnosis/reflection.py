"""Looking at an object without running any code of its class.

``isinstance``, ``getattr``, ``len`` and ``repr`` may all end in a user's method
(``__class__``, ``__getattr__``, a metaclass). The functions here go to CPython's own
slots instead.
"""

from __future__ import annotations

import sys
from types import GetSetDescriptorType
from typing import Any

MAX_NAME = 80

_NAME: Any = type.__dict__["__name__"]
_MRO: Any = type.__dict__["__mro__"]
_NAMESPACE: Any = type.__dict__["__dict__"]


def is_a(value: object, cls: type) -> bool:
    """Tell whether the type of ``value`` really derives from ``cls``."""
    return type.__subclasscheck__(cls, type(value))


def is_exactly(value: object, *classes: type) -> bool:
    """Tell whether ``value`` is a direct instance of one of ``classes``."""
    cls = type(value)
    return any(cls is other for other in classes)


def type_name(value: object) -> str:
    """The bare name of the type of ``value``."""
    return class_name(type(value))


def class_name(cls: type) -> str:
    """The bare name of a class, cut where it is absurdly long."""
    name = _NAME.__get__(cls)
    return str.__getitem__(name, slice(0, MAX_NAME))


def bases(cls: type) -> tuple[type, ...]:
    """A class and its bases in the order of method resolution."""
    return _MRO.__get__(cls)  # type: ignore[no-any-return]


def namespace(cls: type) -> Any:
    """What a class itself defines, by name."""
    return _NAMESPACE.__get__(cls)


def instance_dict(value: object) -> dict[str, Any]:
    """The instance's own ``__dict__``; an empty one if it has none.

    A class may define a property of that name; only the slot is read.
    """
    for base in bases(type(value)):
        slot = namespace(base).get("__dict__")
        if type(slot) is GetSetDescriptorType:
            found = slot.__get__(value)
            return dict(dict.items(found))
    return {}


def library_class(module: str, name: str) -> type | None:
    """A class of a library, if that library is loaded already."""
    found = getattr(sys.modules.get(module), name, None)
    return found if type(found) is type or is_a(found, type) else None


def library_type(value: object, module: str, *names: str) -> type | None:
    """The first of a loaded library's classes that ``value`` is an instance of."""
    for name in names:
        cls = library_class(module, name)
        if cls is not None and is_a(value, cls):
            return cls
    return None
