import functools


@functools.lru_cache(maxsize=None)
def slow(n):
    T(("slow", n))
    return T(n)


class Data:
    @functools.cached_property
    def table(self):
        T("table")
        return [T(1), 2]


@functools.singledispatch
def show(x):
    return T(("any", x))


@show.register
def _(x: int):
    T("int")
    return T(x + 1)


def f():
    data = Data()
    T(len(data.table))
    T(data.table[0])
    return show("a"), show(1)


# %%
T(slow(1) + slow(2) + T(slow(3)))
T(f())
