def f(a, b):
    T(a)
    del a
    try:
        a
    except UnboundLocalError:
        T("gone")
    a = T(1)
    items = {"x": 1, "y": [2, 3]}
    del items["x"], items["y"][T(0)], b
    T(items)
    for i in range(2):
        c = T(i)
        del c
    try:
        raise KeyError
    except KeyError as error:
        T("handler")
    T("error" in locals())
    return sorted(locals())


# %%
T(f(1, 2))
temporary = T(3)
del temporary
T("temporary" in globals())
