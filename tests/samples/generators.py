def numbers(n):
    T("open")
    try:
        for i in range(n):
            T(("yield", i))
            got = yield i
            T(("got", got))
    finally:
        T("close")
    return "result"


def delegating(n):
    T("delegate")
    result = yield from numbers(n)
    T(result)
    yield "last"


# %%
for x in numbers(2):
    T(("use", x))
for x in delegating(2):
    T(("use", x))
for x in numbers(5):
    T(x)
    if x == 1:
        break
T("after break")
g = numbers(3)
T(next(g))
T(g.send("sent"))
g.close()
