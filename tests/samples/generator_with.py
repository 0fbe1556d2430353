import contextlib


@contextlib.contextmanager
def opened(name):
    T(("open", name))
    try:
        yield name
    except KeyError as error:
        T(("seen", error.args))
    finally:
        T(("close", name))


def lines(n):
    with opened("file") as name:
        for i in range(n):
            T(("line", i))
            yield name, i
    T("after")


def first(n):
    for x in lines(n):
        T(x)
        if x[1] == 1:
            return x


# %%
T(list(lines(2)))
with opened("b"):
    T("body")
    raise KeyError(T("key"))
T("go on")
for a, b in zip(lines(1), "a"):
    T((a, b))
