import functools
import itertools


def key(x):
    T(("key", x))
    return -x


def add(a, b):
    T(("add", a, b))
    return a + b


def small(x):
    T(("small", x))
    return x < 3


class Compare:
    def __init__(self, x):
        self.x = x

    def __lt__(self, other):
        T(("lt", self.x, other.x))
        return self.x < other.x


# %%
T(sorted([3, 1, 2], key=key))
T(functools.reduce(add, [1, 2, 3], T(0)))
T(list(map(add, [1, 2], [3, 4])))
T(list(filter(small, [1, 5])))
T(list(itertools.takewhile(small, [1, 9, 1])))
T(functools.partial(add, T(1))(T(2)))
T([c.x for c in sorted([Compare(2), Compare(1)])])
T(max([1, 2], key=key))
xs = [2, 1]
xs.sort(key=key)
T(xs)
T(list(itertools.accumulate([1, 2, 3], add)))
