class Manager:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        out.append("enter " + self.name)
        return self.name

    def __exit__(self, kind, error, traceback):
        out.append(("exit", self.name, kind and kind.__name__))


def f(n):
    T("start")
    for i in range(n):
        with Manager("a") as a, Manager("b") as b:
            T(a)
            for j in range(2):
                T((i, j, b))
            if i == 1:
                T("continue")
                continue
            if i == 2:
                T("break")
                break
            T("tail")
        T("behind")
    with Manager("c") as c:
        T(c)
        value = T("value")
        return value + c


# %%
with Manager("cell") as name:
    T(name)
    for i in (1, 4):
        with Manager("inner"):
            T(i)
            if i == 4:
                T("out")
                break
            T("stay")
        T(f(i))
T(f(3))
