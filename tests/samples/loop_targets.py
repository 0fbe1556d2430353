class Holder:
    pass


def f():
    h = Holder()
    xs = [0, 0]
    for h.n in range(2):
        T(h.n)
    for xs[0], xs[1] in [(1, 2), (3, 4)]:
        T(list(xs))
    for (a, *b), c in [((1, 2, 3), 4)]:
        T((a, b, c))
    for i in range(2):
        for i in "xy":
            T(i)
        T(("outer", i))
    for _ in []:
        T("never")
    else:
        T(("else", i))
    return h.n, xs


# %%
T(f())
