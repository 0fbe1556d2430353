import functools


def noted(name):
    T(("make", name))

    def decorate(f):
        T(("decorate", name))

        @functools.wraps(f)
        def inner(*args, **kwargs):
            T((name, "in"))
            try:
                return f(*args, **kwargs)
            finally:
                T((name, "out"))

        return inner

    return decorate


class Counted:
    def __init__(self, f):
        functools.update_wrapper(self, f)
        self.f, self.count = f, 0

    def __call__(self, *args):
        self.count += 1
        T(("count", self.count))
        return self.f(*args)


# %%
@noted(T("a"))
@noted("b")
def f(x):
    """Doc."""
    T("body")
    return x + T(1)


@Counted
def g(n):
    T(("g", n))
    return n if n == 0 else g(n - 1)


@functools.lru_cache(maxsize=None)
def cached(n):
    T(("cached", n))
    return n * 2


T((f(1), f.__name__, f.__doc__))
T((g(2), g.count))
T((cached(1), cached(1), cached(2)))
