class Money:
    def __init__(self, n):
        self.n = n

    def __format__(self, spec):
        return f"{self.n:{spec or 'd'}} EUR"


def f(x, width):
    T(f"{T(x)!r:>{T(width)}}|{x + T(1):0{width}}")
    T("%s and %d" % (T("text"), T(3)))
    T("{0.n} {1:{2}}".format(Money(T(4)), T(5), T("4d")))
    return f"""{Money(T(6))} in
{Money(7):05d} lines {T("end")}"""


# %%
T(f(2, 5))
T(f"{T(1)}{T(2)}3")
