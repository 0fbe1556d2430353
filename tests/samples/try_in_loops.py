def f(xs):
    found = []
    for x in xs:
        try:
            T(("try", x))
            value = 10 // x
        except ZeroDivisionError:
            T("zero")
            continue
        except TypeError:
            T("type")
            break
        else:
            T("else")
            found.append(value)
        finally:
            T("finally")
            found.append(T("f"))
    else:
        T("all")
    return found


# %%
T(f([1, 0, 2]))
T(f([5, "x", 1]))
for n in range(3):
    try:
        if n == 1:
            raise KeyError(T(n))
        T(("cell", n))
    except KeyError:
        T("handled")
        continue
    finally:
        T("end")
