def f(x):
    y = T(1)
    found = sorted(locals())
    T(found)
    T(sorted(vars()))
    exec("z = T(5)", {"T": T}, {})
    T(eval("x + y", globals(), locals()))
    T(eval("T(7) + 1"))
    T(sorted(k for k in dir() if not k.startswith("_")))
    return "{x} {y}".format(**locals())


class C:
    def m(self, k=2):
        T(sorted(locals()))
        return T(k)


# %%
T(f(2))
T(C().m())
T(globals()["f"] is f)
