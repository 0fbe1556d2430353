class Manager:
    def __init__(self, *args):
        self.args = T(args)

    def __enter__(self):
        T("enter")
        return self

    def __exit__(self, *error):
        T("exit")


def f(n):
    with Manager(T(1), T(2)) as a, Manager(T(3)) as b:
        T((a.args, b.args))
    with Manager(T("x")):
        with Manager(*[T(i) for i in ()], T("y")) as c:
            T(c.args)
            return T("out")


# %%
T(f(1))
with Manager(T(5)) as d:
    T(d.args)
