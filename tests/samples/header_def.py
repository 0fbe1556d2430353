def outer(k):
    def f(a=T(1), *, b=T(2), c: int = 3):
        T((a, b, c))
        return a + b

    def decorate(g):
        T("decorate")
        return g

    def with_argument(n):
        T(("with", n))
        return decorate

    @with_argument(T(4))
    def h(x, y=T(5)):
        return x + y

    total = f() + h(k)

    class Base:
        pass

    class C(Base if T("base") else object):
        n = 1

    add = lambda x, y=T(6): x + y
    return total + C.n + add(1)


# %%
T(outer(1))
