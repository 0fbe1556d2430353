def numbers(n):
    for i in range(n):
        T(("make", i))
        yield i


def f(n):
    squares = (x * x for x in numbers(n) if x != 1)
    T("made")
    T(next(squares))
    T(list(squares))
    return sum(x for x in numbers(2)), max((y for y in ()), default=T(0))


# %%
T(f(3))
T(sorted((-x for x in numbers(2)), key=abs))
