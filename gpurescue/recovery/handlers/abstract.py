"""The values of an abstract execution: real objects, and what is known of others."""

from __future__ import annotations

from typing import Any, Final


class Value:
    """An abstract value; this class itself is that of UNKNOWN, NULL and DELETED."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Known(Value):
    """A real object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not Known:
            return False
        mine, theirs = self.value, other.value
        if mine is theirs:
            return True
        kind = type(mine)
        plain = kind is int or kind is str  # "in" would ask a metaclass's __eq__
        return bool(plain and kind is type(theirs) and mine == theirs)

    def __hash__(self) -> int:
        kind = type(self.value)
        plain = kind is int or kind is str
        return hash(self.value) if plain else id(self.value)

    def __repr__(self) -> str:
        return f"<known {type(self.value).__name__}>"


class Made(Value):
    """A new exception of exactly class ``cls``; nothing else is known of it."""

    __slots__ = ("cls",)

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def __eq__(self, other: object) -> bool:
        return other.__class__ is Made and other.cls is self.cls

    def __hash__(self) -> int:
        return id(self.cls) ^ 1

    def __repr__(self) -> str:
        return f"<a new {self.cls.__name__}>"


class Listed(Value):
    """A list or tuple of which the items are known abstractly."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[Value, ...]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return other.__class__ is Listed and other.items == self.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"<list of {self.items!r}>"


class Bound(Value):
    """A method ``function`` bound to ``owner``, before any method object exists."""

    __slots__ = ("function", "owner")

    def __init__(self, function: Any, owner: Value) -> None:
        self.function = function
        self.owner = owner

    def __eq__(self, other: object) -> bool:
        return (
            other.__class__ is Bound
            and other.function is self.function
            and other.owner == self.owner
        )

    def __hash__(self) -> int:
        return id(self.function) ^ hash(self.owner)

    def __repr__(self) -> str:
        return f"<{self.function!r} of {self.owner!r}>"


class Super(Value):
    """``super(cls, owner)``."""

    __slots__ = ("cls", "owner")

    def __init__(self, cls: type, owner: Value) -> None:
        self.cls = cls
        self.owner = owner

    def __repr__(self) -> str:
        return f"<super({self.cls!r})>"


class Slot(Value):
    """Slot ``index`` of the live frame's value stack, read when it is needed."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"<slot {self.index}>"


class Local(Value):
    """Local variable ``index`` of the live frame, read when it is needed."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"<local {self.index}>"


class Place(Value):
    """Where a value can be found when it is needed: a variable, and attributes of it.

    Attributes:
        kind: LOCAL, CELL or GLOBAL.
        root: Number or name of the variable.
        names: The attributes, one of the other.
        num_sure: How many of them no code can have changed before.
    """

    __slots__ = ("kind", "names", "num_sure", "root")

    def __init__(
        self, kind: str, root: Any, names: tuple[str, ...] = (), num_sure: int = 0
    ) -> None:
        self.kind = kind
        self.root = root
        self.names = names
        self.num_sure = num_sure

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.kind, self.root, self.names, self.num_sure

    def owner(self) -> Place:
        """Where the object is that has the last attribute."""
        return Place(self.kind, self.root, self.names[:-1], self.num_sure)

    def attribute(self, name: str, *, is_sure: bool) -> Place:
        """Where an attribute of what is here can be found."""
        names = (*self.names, name)
        num_sure = len(names) if is_sure else self.num_sure
        return Place(self.kind, self.root, names, num_sure)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.root}{''.join('.' + name for name in self.names)}>"


LOCAL = "local"
CELL = "cell"
GLOBAL = "global"


class Previous(Value):
    """What PUSH_EXC_INFO saves: the exception that was being handled before."""

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return other.__class__ is Previous and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value) ^ 2

    def __repr__(self) -> str:
        return f"<previous {self.value!r}>"


UNKNOWN: Final = Value("unknown")
NULL: Final = Value("NULL")
NONE: Final = Known(None)
TRUE: Final = Known(True)
FALSE: Final = Known(False)
