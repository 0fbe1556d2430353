def f(n):
    T("start")
    for i in range(n):
        try:
            T(("try", i))
            if i == 1:
                raise ValueError(i)
            T("no error")
        except ValueError as error:
            T(("handler", error.args))
            if i == 1:
                T("continue")
                continue
        except KeyError:
            T("never")
        else:
            T("else")
        finally:
            T(("finally", i))
        T("behind")
    try:
        T("return")
        return n
    finally:
        T("last")


# %%
T(f(2))
try:
    T("cell try")
    T(f(1))
finally:
    T("cell finally")
T("end")
