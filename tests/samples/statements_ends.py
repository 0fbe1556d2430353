def f(xs, n):
    assert T(n) > T(0), T("never")
    try:
        assert T(0), T("message")
    except AssertionError as error:
        T(str(error))
    del xs[T(0)], xs[T(1) - 1]
    T(list(xs))
    try:
        raise ValueError(T("value")) from KeyError(T("cause"))
    except ValueError as error:
        T((error.args, error.__cause__.args))
    x: int = T(1) + T(2)
    xs[T(0)]: int = T(x)
    return T(xs[0]), T(x)


# %%
T(f([1, 2, 3, 4], 1))
numbers = [5, 6, 7]
del numbers[T(0)], numbers[T(1)]
T(numbers)
