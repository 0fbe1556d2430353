class Table:
    def __init__(self):
        self.rows = {}

    def __setitem__(self, key, value):
        T(("set", key, value))
        self.rows[key] = value


def f():
    table = Table()
    first, (second, *others), *rest = T(1), (T(2), T(3), T(4)), T(5)
    T((first, second, others, rest))
    a, table[T("k")], b = T(1), T(2), T(3)
    T((a, b))
    a, b = b, a + T(10)
    c = table[T("l")] = d = T(7)
    T((a, b, c, d))
    xs = [0, 0, 0]
    i = 0
    i, xs[i] = T(1), T(9)
    T((i, xs))
    [*xs[T(0) : T(2)], last] = T([5, 6, 7])
    (xs[0], xs[T(1)]), table.name = (T(8), xs[0]), T("name")
    T((xs, last, table.name))
    return {**{"a": T(1)}, "b": T(2)}, [*range(T(2)), T(3)]


# %%
T(f())
p, *q = T([1, 2, 3])
T((p, q))
