class Pool:
    def __init__(self):
        self.items = [1, 2, 3, 4, 5, 6]
        self.n = 0

    def take(self):
        self.n += 1
        T(("take", self.n))
        return self.items.pop()

    def peek(self):
        T("peek")
        return self.items[-1]


pool = Pool()


def f():
    a = pool.n + pool.take() + T(pool.n)
    T(a)
    b = [pool.items[-1], pool.take(), T(1), pool.items[-1]]
    T(b)
    c = pool.peek() * pool.take() - T(pool.peek())
    T(c)
    d = {pool.take(): pool.n, T("k"): pool.n}
    T(d)
    return pool.n * 2 + pool.take() * T(2), len(pool.items), T(pool.n)


# %%
T(f())
T((pool.n, pool.items[:], T(0)))
