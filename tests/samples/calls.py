def f(*args, **kwargs):
    T((args, kwargs))
    return len(args)


def pair(a, /, b, *, c=3):
    T((a, b, c))
    return [a, b]


def options(n):
    T(("options", n))
    return {"c": n}


# %%
T(f(*pair(T(1), T(2)), T(3), *[T(4)], x=T(5), **options(T(6))))
T(pair(T(1), b=T(2), **options(f(T(3)))))
T(print is f or pair(*[T(1)], *[T(2)]))
T(max(T(1), T(3), T(2), key=abs))
T(pair(pair(T(1), T(2)), pair(T(3), T(4))))
