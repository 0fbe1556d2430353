def outer(n):
    total = 0
    calls = []

    def add(x):
        nonlocal total
        T(("add", x))
        total += x
        calls.append(x)
        return total

    def make(k):
        def inner():
            T(("inner", k))
            return k * total

        return inner

    makers = []
    for i in range(n):
        add(i)
        T(total)
        makers.append(make(i))
        n = n + 0
    T([m() for m in makers])
    return total, calls


# %%
T(outer(3))
