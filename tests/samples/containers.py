class Bag:
    def __init__(self, items):
        self.items = items

    def __getitem__(self, i):
        T(("item", i))
        if i >= len(self.items):
            raise IndexError(i)
        return self.items[i]

    def __setitem__(self, i, value):
        T(("set", i))
        self.items[i] = value

    def __delitem__(self, i):
        T(("del", i))
        del self.items[i]

    def __len__(self):
        T("len")
        return len(self.items)

    def __contains__(self, x):
        T(("in", x))
        return x in self.items

    def __missing__(self, key):
        return None


class Old:
    """Iterated over by its items alone."""

    def __getitem__(self, i):
        T(("old", i))
        if i == 3:
            raise IndexError
        return i


# %%
bag = Bag([1, 2, 3])
T(bag[0])
bag[1] = T(5)
del bag[2]
T((len(bag), 5 in bag))
if bag:
    T("not empty")
for x in bag:
    T(x)
for x in Old():
    T(x)
