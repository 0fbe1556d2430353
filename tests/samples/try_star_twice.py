def f(errors):
    try:
        T("raise")
        raise ExceptionGroup("g", errors)
    except* KeyError:
        T(T(1) + T(2))
    except* ValueError:
        T("value")
    T("behind")


# %%
T("begin")
f([KeyError(), ValueError()])
