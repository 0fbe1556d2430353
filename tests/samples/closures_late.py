def counter():
    count = 0

    def bump(by=1):
        nonlocal count
        T(("bump", by))
        count += by
        return count

    def reset():
        nonlocal count
        count = T(0)

    return bump, reset, lambda: count


def f():
    bump, reset, value = counter()
    T(bump() + bump(T(2)))
    reset()
    T(value())
    x = 1

    def change():
        nonlocal x
        x += T(1)
        return x

    y = [x, change(), T("z"), x]
    T(y)
    fs = [lambda i=i: i + x for i in range(2)]
    x = T(10)
    del bump
    return [g() for g in fs], y


# %%
T(f())
adders = []
for k in range(2):

    def add(n, k=k):
        T(("add", n, k))
        return n + k

    adders.append(add)
T([g(1) for g in adders])
