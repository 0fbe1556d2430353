def pairs(it):
    T("pairs")
    for a in it:
        T(a)
        b = next(it, None)
        T(b)
        yield a, b


def f():
    it = iter(range(5))
    for x in it:
        T(x)
        if x == 1:
            break
    for x in it:
        T(("rest", x))
        break
    T(list(pairs(it)))
    source = iter("abc")
    for c, d in zip(source, source):
        T((c, d))
    rows = [1, 2]
    for r in rows:
        T(r)
        if r < 3:
            rows.append(r + 2)
    table = {"a": 1, "b": 2}
    for k, v in table.items():
        table[k] = T(v) + 1
    return table, rows


# %%
T(f())
for line in iter(lambda: T("line"), "line"):
    T("never")
