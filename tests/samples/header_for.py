class Pair:
    def __init__(self, a, b):
        self.items = [a, b]

    def __iter__(self):
        T("iter")
        return iter(self.items)


def f(n):
    for x in Pair(T(n), T(n + 1)):
        T(x)
    for i, x in enumerate(sorted([T(3), T(1)], key=T("key") and None), start=T(1)):
        T((i, x))
    else:
        T("else")
    for k in {T("a"): T(1), "b": 2}:
        T(k)


# %%
f(1)
for x in zip([T(1), 2], [T(3)]):
    T(x)
