import functools


def deco(k):
    def wrap(f):
        @functools.wraps(f)
        def inner(*args, **kwargs):
            T(("before", k))
            result = f(*args, **kwargs)
            T(("after", k))
            return result

        return inner

    return wrap


@deco(1)
@deco(2)
def f(x):
    T("body")
    y = x + 1
    T(y)
    return y


# %%
T(f(1))
