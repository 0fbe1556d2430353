def f(a, b=2, /, c=3, *args, d, e=5, **kwargs):
    T((a, b, c, args, d, e, kwargs))
    a, b = b, a
    args = list(args)
    T(a)
    kwargs.update(f=T(6))
    d += T(1)
    return a, b, c, args, d, e, kwargs


shared = []


def defaults(x, seen=shared):
    T(x)
    seen.append(x)
    return list(seen)


# %%
T(f(T(1), d=T(4)))
T(f(1, 2, 3, 4, 5, d=6, e=7, g=8))
T(f(*[1, 2], **{"d": T(3), "z": T(4)}))
T(defaults(1))
T(defaults(2))
try:
    f(1)
except TypeError as error:
    T("missing" in str(error))
