class Temperature:
    def __init__(self, degrees):
        self._degrees = degrees

    @property
    def degrees(self):
        T("get")
        found = self._degrees
        T(found)
        return found

    @degrees.setter
    def degrees(self, value):
        T(("set", value))
        self._degrees = value
        T("done")

    @degrees.deleter
    def degrees(self):
        T("delete")
        self._degrees = None

    @staticmethod
    def of(x):
        T(("of", x))
        return Temperature(x)

    @classmethod
    def both(cls, x, y):
        T(cls.__name__)
        return cls.of(x), cls.of(y)


# %%
low, high = Temperature.both(T(1), T(2))
low.degrees = high.degrees + T(1)
low.degrees += T(5)
T(low.degrees)
del low.degrees
T(low.degrees)
