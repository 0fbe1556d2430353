def f(x, width):
    T(f"{T(x)} {T(x + 1):>{T(width)}} {T('c')!r:^{width}}")
    T("%s and %s" % (T(1), T(2)))
    T("{} {k}".format(T(3), k=T(4)))
    T(f"{x=} {T(x) + T(2)=:03}{T('d')}")
    return f"{f'{T(1)}' + 'b'}" + str(T(9)) + T("end")[T(0) : T(2)]


# %%
T(f(1, 5))
T(f"{T('cell')}{T(2):4}")
