def f(xs):
    first, *rest = xs
    T(first)
    (a, b), c = (1, 2), 3
    T(a)
    d: int = 4
    T(d)
    xs[0] = T(9)
    xs[1:2] = [7, 8]
    T(list(xs))
    d += T(2)
    T(f"{d:>4}")
    e = T("walrus") and (w := 5)
    T(w)
    assert T(True), "never"
    h = 1 if T(0) else 2
    T([h, e])
    del a, b
    T({k: v for k, v in zip("ab", rest)})
    T((lambda z: z + d)(1))
    return locals().get("c")


# %%
T(f([1, 2, 3]))
