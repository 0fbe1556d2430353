from __future__ import annotations

from typing import Generic, NamedTuple, Optional, TypedDict, TypeVar

X = TypeVar("X")


class Row(NamedTuple):
    name: str
    n: int = 0

    def twice(self) -> int:
        T("twice")
        return self.n * 2


class Box(Generic[X]):
    item: X
    count: int = 0

    def __init__(self, item: X) -> None:
        T("init")
        self.item: X = item
        self.count: int = T(1)

    def get(self) -> Optional[X]:
        y: X
        y = self.item
        T(y)
        z: int = T(2)
        return y if z else None


def f(a: int, *b: str, c: list[int] | None = None) -> Row:
    d: dict[str, int] = {"a": T(a)}
    return Row("r", d["a"] + T(1))


# %%
T(Box(T("x")).get())
T(f(1, "b").twice())
x: int = T(5)
y: int
T((x, Row("a") == Row(T("a"), T(0))))
