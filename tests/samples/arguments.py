def f(a, /, b, *args, c=3, d, **kwargs):
    T((a, b, args, c, d, kwargs))
    a += 1
    T(a)
    args += (9,)
    kwargs["new"] = c
    T((args, kwargs))
    del b
    T("deleted")
    b = a
    return [a, b, args, c, d, kwargs]


# %%
T(f(1, 2, 3, 4, d=5, e=6))
T(f(1, 2, d=0))
