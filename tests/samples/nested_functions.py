def a(n):
    def b(m):
        T(("b", m))

        def c(k):
            nonlocal n
            T(("c", k))
            n += k
            return n + m

        return c(T(1)) + c(T(2))

    T(b(10))
    return n


def curry(f):
    return lambda x: lambda y: f(x, y)


def add(x, y):
    T((x, y))
    return x + y


def compose(*fs):
    def run(x):
        for f in fs:
            x = f(T(x))
        return x

    return run


# %%
T(a(T(5)))
T(curry(add)(T(1))(T(2)))
T(compose(abs, str, len)(T(-10)))
