import contextlib


class Swallow:
    def __init__(self, *kinds):
        self.kinds = kinds

    def __enter__(self):
        return T("enter")

    def __exit__(self, kind, error, traceback):
        T(("exit", kind and kind.__name__))
        return kind is not None and issubclass(kind, self.kinds)


def f(n):
    for i in range(n):
        with Swallow(KeyError) as x, contextlib.suppress(ValueError):
            T((i, x))
            if i == 0:
                raise KeyError(T("key"))
            if i == 1:
                raise ValueError(T("value"))
            T("no error")
            return "returned"
        T("behind")
    return "end"


# %%
T(f(1))
T(f(3))
with contextlib.suppress(ZeroDivisionError):
    T(1)
    1 / 0
    T("never")
T(2)
