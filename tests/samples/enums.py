import enum


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    @property
    def other(self):
        T(self.name)
        return Color.BLUE if self is Color.RED else Color.RED

    @classmethod
    def parse(cls, text):
        T(text)
        return cls[text.upper()]


class Mode(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


def f(text):
    color = Color.parse(T(text))
    found = [color.value, color.other.value]
    for member in Color:
        found.append(T(member.value))
    mode = Mode.READ
    mode |= Mode.WRITE if T(True) else Mode.READ
    return found, Mode.WRITE in mode


# %%
T(f("red"))
T(Color.parse("blue").other.name)
