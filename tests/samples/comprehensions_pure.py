def f(rows):
    flat = [x for row in rows for x in row if x % 2]
    T(flat)
    table = {k: v * 2 for k, v in zip("ab", T([1, 2]))}
    T(table)
    T({x % 3 for x in T(range(5))})
    T([[y for y in range(x)] for x in T([1, 2])])
    return [x + len(flat) for x in T(flat)]


# %%
T(f([[1, 2], [3]]))
names = [name for name in T(["x", "y"])]
T(names)
