class Held:
    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass


def f(x, y=2):
    for i in range(2):
        with Held():
            T(sorted(locals()))
            z = T(x) + T(i)
            T(sorted(vars()))
    T(sorted(dir()))
    T("{x} {z}".format(**locals()))
    names = (lambda k: sorted(locals()))(1)
    T(names)
    return {k: v for k, v in locals().items() if k != "names"}


def g():
    def locals():
        return "mine"

    T(locals())


# %%
T(f(1))
g()
T("f" in locals())
