def f(n):
    for i in range(4):
        try:
            T(("try", i))
            if i == n:
                T("break")
                break
            if i == 1:
                T("continue")
                continue
            if i == 2 and n == 5:
                T("return")
                return T("value")
            T("body")
        except KeyError:
            T("never")
        else:
            T(("else", i))
            T("else too")
        finally:
            T("finally")
        T("behind")
    else:
        T("for else")
    return "end"


def g():
    try:
        if T("in"):
            return T("early")
    except ValueError:
        pass
    else:
        T("not here")
    T("nor here")


# %%
for n in (2, 5, 7):
    T(f(n))
T(g())
for i in range(3):
    try:
        T(i)
        if i == 1:
            break
    except KeyError:
        pass
    else:
        T("cell else")
