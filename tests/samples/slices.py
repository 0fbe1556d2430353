def f(xs):
    T(xs[T(0) : T(3) : T(1)])
    T(xs[T(1) :][T(0)])
    xs[T(0) : T(1)] = [T("a"), T("b")]
    T(xs)
    del xs[T(0) : T(1)]
    grid = {(1, 2): "x"}
    T(grid[T(1), T(2)])
    T([xs[T(i)] for i in ()])
    return xs[-T(1)], xs[T(0)]


# %%
T(f([1, 2, 3, 4]))
