def pick(x):
    T(("pick", x))
    return x


def f(n):
    a = T(1) if pick(n) else T(2)
    b = T("yes") if n > 1 and pick(0) or pick(n) == 2 else T("no")
    c = (T(3) if n else T(4)) + (T(5) if not n else T(6))
    d = [T(i) if i else None for i in ()] or T("empty")
    return (a, b, c, d) if T(n) < 5 else None


# %%
T([f(0), f(2)])
T("one" if T(1) == 1 == T(1) else "other")
