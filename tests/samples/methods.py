class Base:
    scale = 2

    def __init__(self, x):
        T("init")
        self.x = x

    def run(self, y):
        T("base run")
        return self.x + y

    @staticmethod
    def helper(z):
        T("static")
        return z + 1

    @classmethod
    def make(cls, x):
        T("class")
        return cls(x)

    @property
    def value(self):
        T("property")
        return self.x * self.scale

    def __private(self):
        T("private")
        return self.__hidden

    def call_private(self):
        __local = 3
        T("calling")
        self.__hidden = __local
        found = self.__private()
        T(found)
        return found + __local


class Child(Base):
    def __init__(self, x):
        T("child init")
        super().__init__(x)
        T("child done")

    def run(self, y):
        T("child run")
        first = super().run(y)
        T(first)
        second = super().run(first)
        T(second)
        return second


# %%
child = Child.make(3)
T(child.run(4))
value = child.value
T(value)
T(child.helper(1))
T(child.call_private())
