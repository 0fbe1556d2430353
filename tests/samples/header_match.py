class Point:
    __match_args__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __repr__(self):
        return f"Point({self.x}, {self.y})"

    def __eq__(self, other):
        T("eq")
        return self is other


def f(x, k):
    match (x, T(k)):
        case (0, k) if T(k) > T(2):
            T("big")
        case (0, k) if T(("second", k)):
            T("small")
        case (1 | 2 as n, _):
            T(n)
        case (Point(x=a, y=0), _):
            T(("point", a))
        case [first, *rest] if T(rest):
            T(first)
    match T({"a": 1, "b": [2, 3]}):
        case {"a": 1, "b": [n, _], **others}:
            T((n, others))


# %%
for x, k in [(0, 3), (0, 1), (2, 0), (Point(4, 0), 1), (9, 9)]:
    f(x, k)
match T(1) + T(2):
    case 3:
        T("three")
