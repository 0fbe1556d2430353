"""Looking at real objects without running their code.

Nothing here calls a property, ``__getattr__``, ``__eq__``, ``__hash__``, ``__bool__``,
``__str__`` or ``__instancecheck__`` that somebody wrote in Python: a decision must not
have effects. What cannot be known that way is UNKNOWN.
"""

from __future__ import annotations

import builtins
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final

from gpurescue.recovery.handlers.abstract import (
    FALSE,
    TRUE,
    UNKNOWN,
    Bound,
    Known,
    Listed,
    Made,
    Super,
    Value,
)

# The descriptors of ``type`` itself: asking a class would ask its metaclass.
_MRO: Any = type.__dict__["__mro__"].__get__
own_names: Any = type.__dict__["__dict__"].__get__
_FLAGS_OF: Any = type.__dict__["__flags__"].__get__
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_CLASS_OF_OBJECT = object.__dict__["__class__"]
_MODULE_DICT: Any = vars(ModuleType)["__dict__"].__get__

SCALARS: Final = (str, int, float, bool, bytes, type(None))
_PLAIN: Final = (*SCALARS, tuple, list, dict, set, frozenset)
_BUILTIN_TYPES: Final = frozenset(
    id(value) for value in vars(builtins).values() if isinstance(value, type)
)
_STABLE: Final = (FunctionType, BuiltinFunctionType, ModuleType, MethodType)
_METHODS: Final = (FunctionType, MethodDescriptorType, WrapperDescriptorType)


def boolean(decided: bool | None) -> Value:
    """The abstract value of a test that may be undecided."""
    if decided is None:
        return UNKNOWN
    return TRUE if decided else FALSE


def mro(cls: type) -> tuple[type, ...]:
    """The real method resolution order, whatever a metaclass says."""
    order: tuple[type, ...] = _MRO(cls)
    return order


def inherits(cls: type, other: Any) -> bool:
    """Whether ``other`` is in the MRO; ``in`` would ask a metaclass's ``__eq__``."""
    for base in _MRO(cls):
        if base is other:
            return True
    return False


def is_any(cls: Any, options: tuple[Any, ...]) -> bool:
    """Whether ``cls`` is one of ``options``, by identity."""
    for option in options:
        if cls is option:
            return True
    return False


def is_class(value: Any) -> bool:
    """Whether ``value`` is a class; ``isinstance`` would ask its ``__class__``."""
    return inherits(type(value), type)


def is_c_type(cls: type) -> bool:
    """Whether a class is implemented in C: not made by a class statement."""
    if not _FLAGS_OF(cls) & _HEAP_TYPE:
        return True
    return any(
        is_any(type(value), (MethodDescriptorType, WrapperDescriptorType))
        and value.__objclass__ is cls
        for value in own_names(cls).values()
    )


def is_exception(value: Value) -> bool:
    """Whether ``value`` is known to be an exception."""
    if value.__class__ is Known:
        return inherits(type(value.value), BaseException)
    return value.__class__ is Made


def is_exception_class(value: Any) -> bool:
    """Whether ``value`` is an exception class."""
    return is_class(value) and inherits(value, BaseException)


def lookup(cls: type, name: str) -> tuple[bool, Any]:
    """Find ``name`` in the class and its bases, without binding it."""
    for base in mro(cls):
        names = own_names(base)
        if name in names:
            return True, names[name]
    return False, None


def class_of(value: Value) -> type | None:
    """``type(value)``."""
    if isinstance(value, Known):
        return type(value.value)
    return value.cls if isinstance(value, Made) else None


def module_dict(module: ModuleType) -> dict[str, Any]:
    """The names of a module, whose class may have a ``__getattribute__``."""
    names: dict[str, Any] = _MODULE_DICT(module)
    return names


def instance_dict(value: Any) -> dict[str, Any] | None:
    """``value.__dict__`` if it is an ordinary one."""
    found, descriptor = lookup(type(value), "__dict__")
    if not found or type(descriptor) is not GetSetDescriptorType:
        return None
    names = descriptor.__get__(value)
    return names if type(names) is dict else None


def is_data_descriptor(value: Any) -> bool:
    """Whether a class attribute goes before the instance's own."""
    return lookup(type(value), "__set__")[0] or lookup(type(value), "__delete__")[0]


def attribute(owner: Value, name: str) -> Value:
    """``owner.name`` as far as it is known without running code."""
    if isinstance(owner, Made):
        _, found = lookup(owner.cls, name)
        return Bound(found, owner) if is_any(type(found), _METHODS) else UNKNOWN
    if isinstance(owner, Super):
        return _super_attribute(owner, name)
    if not isinstance(owner, Known):
        return UNKNOWN
    value = owner.value
    if inherits(type(value), ModuleType):
        names = module_dict(value)
        return Known(names[name]) if name in names else UNKNOWN
    if is_class(value):
        return _class_attribute(owner, name)
    return _instance_attribute(owner, name)


def _super_attribute(owner: Super, name: str) -> Value:
    kind = class_of(owner.owner)
    behind = False
    for base in mro(kind) if kind is not None else ():
        names = own_names(base)
        if behind and name in names:
            return _bind(names[name], owner.owner)
        behind = behind or base is owner.cls
    return UNKNOWN


def _class_attribute(owner: Known, name: str) -> Value:
    found, value = lookup(type(owner.value), name)
    if found and is_data_descriptor(value):
        return _read(value, owner)
    found, value = lookup(owner.value, name)
    if not found:
        return UNKNOWN
    if type(value) is staticmethod:
        return Known(value.__func__)
    if type(value) is classmethod:
        return Bound(value.__func__, owner)
    if lookup(type(value), "__get__")[0] and not is_any(type(value), _METHODS):
        return UNKNOWN
    return Known(value)


def _instance_attribute(owner: Known, name: str) -> Value:
    cls = type(owner.value)
    if type(lookup(cls, "__getattribute__")[1]) is not WrapperDescriptorType:
        return UNKNOWN
    found, value = lookup(cls, name)
    if found and is_data_descriptor(value):
        return _read(value, owner)
    names = instance_dict(owner.value)
    if names is not None and name in names:
        return Known(names[name])
    return _bind(value, owner) if found else UNKNOWN


def _bind(value: Any, owner: Value) -> Value:
    """What a non-data class attribute becomes on an instance."""
    if is_any(type(value), _METHODS):
        return Bound(value, owner)
    if type(value) is staticmethod:
        return Known(value.__func__)
    if type(value) is classmethod:
        cls = class_of(owner)
        return Bound(value.__func__, Known(cls)) if cls is not None else UNKNOWN
    return UNKNOWN if lookup(type(value), "__get__")[0] else Known(value)


def _read(descriptor: Any, owner: Known) -> Value:
    """Read a data descriptor of C; those of builtin types have no side effects."""
    kind = type(descriptor)
    is_plain = kind is MemberDescriptorType or (
        kind is GetSetDescriptorType and id(descriptor.__objclass__) in _BUILTIN_TYPES
    )
    if not is_plain:
        return UNKNOWN
    try:
        return Known(descriptor.__get__(owner.value, type(owner.value)))
    except AttributeError:  # an empty slot
        return UNKNOWN


def is_missing(owner: Value, name: str) -> bool:
    """Whether ``owner.name`` is known to raise AttributeError."""
    if not isinstance(owner, Known) or is_class(owner.value):
        return False
    cls = type(owner.value)
    if lookup(cls, "__getattr__")[0] or inherits(cls, ModuleType):
        return False
    if lookup(cls, name)[0]:
        return False
    if type(lookup(cls, "__getattribute__")[1]) is not WrapperDescriptorType:
        return False
    names = instance_dict(owner.value)
    return names is not None and name not in names


def is_stable(value: Any) -> bool:
    """Whether names for such a value are not rebound in the course of a program."""
    if type(value) is tuple:
        return all(is_class(item) for item in value)
    return is_any(type(value), _STABLE) or is_class(value)


def truth(value: Value) -> bool | None:
    """``bool(value)``."""
    if isinstance(value, Listed):
        return bool(value.items)
    if isinstance(value, Bound):
        return True
    cls = class_of(value)
    if cls is None:
        return None
    if isinstance(value, Known) and is_any(cls, _PLAIN):
        return bool(value.value)
    plain = not lookup(cls, "__bool__")[0] and not lookup(cls, "__len__")[0]
    return True if plain else None


def is_instance(value: Value, test: Value) -> bool | None:
    """``isinstance(value, test)``."""
    cls = class_of(value)
    if cls is None or lookup(cls, "__class__")[1] is not _CLASS_OF_OBJECT:
        return None
    return is_subclass(cls, test)


def is_subclass(cls: type, test: Value) -> bool | None:
    """``issubclass(cls, test)``; None where a metaclass has its own opinion."""
    options = alternatives(test)
    if options is None:
        return None
    answers = [_is_one(cls, option) for option in options]
    if any(answers):
        return True
    return None if None in answers else False


def alternatives(test: Value) -> list[Any] | None:
    """The members of a class or tuple of classes; UNKNOWN for an unknown one."""
    if isinstance(test, Listed):
        parts = [alternatives(item) or [UNKNOWN] for item in test.items]
        return [option for part in parts for option in part]
    if not isinstance(test, Known):
        return None
    if type(test.value) is tuple:
        parts = [alternatives(Known(item)) or [] for item in test.value]
        return [option for part in parts for option in part]
    return [test.value]


def _is_one(cls: type, option: Any) -> bool | None:
    if not is_class(option):
        return None
    if inherits(cls, option):
        return True
    for name in ("__instancecheck__", "__subclasscheck__"):
        if type(lookup(type(option), name)[1]) is not MethodDescriptorType:
            return None
    return False


def matches(thrown: Value, test: Value) -> bool | None:
    """``except test`` for an exception; LookupError if ``test`` is no such thing.

    Unlike isinstance this asks no metaclass (PyErr_GivenExceptionMatches).
    """
    cls = class_of(thrown)
    if cls is not None and isinstance(test, Known) and is_exception_class(test.value):
        return inherits(cls, test.value)
    options = alternatives(test)
    if cls is None or options is None:
        return None
    unknown = False
    for option in options:
        if option is UNKNOWN:
            unknown = True
        elif not is_exception_class(option):
            raise LookupError(f"{option!r} is not an exception class")
        elif inherits(cls, option):
            return True
    return None if unknown else False


def text(value: Any) -> str | None:
    """``str(value)`` for exact builtin scalars and exceptions made of them."""
    if is_any(type(value), SCALARS):
        return str(value)
    found, method = lookup(type(value), "__str__")
    if not found or not inherits(type(value), BaseException):
        return None
    if type(method) is not WrapperDescriptorType:
        return None
    parts: tuple[Any, ...] = BaseException.args.__get__(value)  # type: ignore[attr-defined]
    if method.__objclass__ is OSError:
        parts = (*parts, *(_os_error_parts(value)))
    elif not is_any(method.__objclass__, (BaseException, KeyError)):
        return None
    if all(is_any(type(part), SCALARS) for part in parts):
        result: str = method(value)
        return result
    return None


def _os_error_parts(value: OSError) -> tuple[Any, ...]:
    """The parts of its text that an OSError does not keep in ``args``."""
    names = ("errno", "strerror", "filename", "filename2")
    return tuple(OSError.__dict__[name].__get__(value) for name in names)
