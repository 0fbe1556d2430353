def echo():
    T("start")
    got = None
    while True:
        try:
            got = yield T(("give", got))
            T(("got", got))
        except KeyError as error:
            T(("thrown", error.args))
            got = "handled"
        except GeneratorExit:
            out.append("exit")
            raise
        if got == "stop":
            return T("returned")


def outer():
    result = yield from echo()
    T(("result", result))
    yield result


# %%
g = echo()
T(next(g))
T(g.send(T("a")))
T(g.throw(KeyError("k")))
try:
    g.send("stop")
except StopIteration as stop:
    T(stop.value)
h = outer()
next(h)
T(h.send("x"))
T(h.throw(KeyError("y")))
T(h.send("stop"))
T(list(h))
