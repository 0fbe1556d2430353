def inner(n):
    T("inner")
    for i in range(n):
        got = yield T(i)
        T(("got", got))
    return T("result")


def middle(n):
    first = yield from inner(n)
    T(first)
    second = yield from [T("a"), "b"]
    return first, second


def outer():
    found = yield from middle(1)
    yield T(found)
    try:
        yield from inner(2)
    finally:
        T("finally")


# %%
T(list(outer()))
talk = middle(2)
T(next(talk))
for word in ("x", "y"):
    T(talk.send(word))
