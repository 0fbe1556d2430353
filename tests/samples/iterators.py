class Count:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        T("iter")
        return Steps(self.n)


class Steps:
    def __init__(self, n):
        self.n = n

    def __next__(self):
        T(("next", self.n))
        if self.n == 0:
            raise StopIteration
        self.n -= 1
        return self.n


def f():
    for x in Count(3):
        T(("body", x))
    for i, (a, b) in enumerate(zip("ab", [1, 2])):
        T((i, a, b))
    it = iter([1, 2, 3, 4])
    for x in it:
        T(x)
        T(next(it))


# %%
f()
for x in Count(2):
    T(x)
