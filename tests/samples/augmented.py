class Cell:
    def __init__(self, n):
        self.n = n
        self.items = {"a": [1, 2]}


cell = Cell(1)


def get(name):
    T(name)
    return cell


def f(n):
    get("x").n += T(2)
    T(cell.n)
    get("y").items[T("a")][T(0)] += T(3) + T(4)
    T(cell.items)
    n *= T(2) + T(1)
    xs = [1]
    same = xs
    xs += [T(5)]
    T(same)
    xs[T(0)] <<= T(1)
    text = "a"
    text += str(T(1)) * T(2)
    return n, xs, text


# %%
T(f(3))
total = 1
total += T(2) * T(3)
T(total)
