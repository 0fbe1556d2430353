class Countdown:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        T("iter")
        return self

    def __next__(self):
        T(("next", self.n))
        if self.n == 0:
            raise StopIteration
        self.n -= 1
        return self.n


# %%
for x in Countdown(2):
    T(x)
items = Countdown(3)
T(next(items))
T(next(items, "default"))
T(list(items))
T(next(items, "default"))
a, b = Countdown(2)
T((a, b))
T([*Countdown(1), T("and")])
T(dict(zip("ab", Countdown(2))))
