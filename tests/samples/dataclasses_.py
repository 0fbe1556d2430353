import dataclasses
import enum


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    tags: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        T(("post", self.x))
        self.tags.append(T(self.y))

    def moved(self, dx):
        T("moved")
        return dataclasses.replace(self, x=self.x + dx)


@dataclasses.dataclass(frozen=True, order=True)
class Key:
    name: str


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    def other(self):
        T(self.name)
        return Color.BLUE if self is Color.RED else Color.RED


# %%
point = Point(T(1))
T(repr(point.moved(T(2))))
T(Point(1, 2) == Point(1, 2))
T([key.name for key in sorted([Key("b"), Key("a")])])
T(Color.RED.other().other().name)
