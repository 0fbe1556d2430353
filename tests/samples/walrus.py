def numbers():
    yield from [3, 1, 0, 5]


def f(xs):
    items = iter(xs)
    while (n := next(items)) and T(n):
        T((n, m := n * 2, T(m)))
    if (k := T(len(xs))) > 2 and (last := T(xs[-1])):
        T((k, last))
    w = 1
    T((w := w + 1) + T(w) + (w := w + T(10)))
    T([w, (w := 0), T(w)])
    return w


# %%
T(f(list(numbers())))
if (count := T(1)) < (limit := T(2)):
    T((count, limit))
