from dataclasses import dataclass


@dataclass
class Point:
    x: int
    y: int


def where(thing):
    match thing:
        case Point(x=0, y=0):
            return T("origin")
        case Point(x=x, y=y) if T(x) > y:
            return T(("below", x, y))
        case [Point() as first, *rest]:
            T(first.x)
            return [where(point) for point in rest]
        case {"a": a, **others}:
            T(a)
            return T(sorted(others))
        case str() | bytes() as text:
            T(text)
        case None:
            T("none")
        case _:
            return T("other")
    return T("behind")


# %%
for thing in (Point(0, 0), Point(2, 1), Point(1, 2), {"a": 1, "b": 2}, "text", None):
    T(where(thing))
T(where([Point(1, 1)]))
