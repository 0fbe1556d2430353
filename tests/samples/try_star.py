def f(n):
    try:
        T("body")
        if n:
            raise ExceptionGroup("g", [KeyError(1), ValueError(2), KeyError(3)])
        T("none")
    except* KeyError as group:
        out.append(len(group.exceptions))
    except* ValueError:
        out.append("value")
    else:
        T("else")
    finally:
        T("finally")
    T("behind")


# %%
f(0)
f(1)
