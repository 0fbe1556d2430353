def even(n):
    T(("even", n))
    return True if n == 0 else odd(n - T(1))


def odd(n):
    T(("odd", n))
    if n == 0:
        return False
    return even(n - T(1))


def tree(n):
    T(n)
    if n < 2:
        return [n]
    return tree(n - 1) + [T("mid")] + tree(n - 2)


def walk(xs):
    for x in xs:
        if isinstance(x, list):
            yield from walk(x)
        else:
            yield T(x)


# %%
T((even(2), odd(1)))
T(tree(3))
T(list(walk([1, [2, [3]], 4])))
