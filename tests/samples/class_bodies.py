class Meta(type):
    def __new__(meta, name, bases, names, **options):
        T(("new", name, sorted(options)))
        made = super().__new__(meta, name, bases, names)
        T("made")
        return made


def make(n):
    class Local:
        size = n

        def area(self):
            T("area")
            return self.size**2

        def whose(self):
            return __class__.__name__

    class Child(Local, metaclass=Meta, option=T(1)):
        def area(self):
            T("child")
            return super().area() + 1

    return Child


# %%
child = make(T(3))()
T((child.area(), child.whose()))


class Here:
    x = 1
    y = [x, 2]

    def method(self):
        T("method")
        return self.y


T(Here().method())
