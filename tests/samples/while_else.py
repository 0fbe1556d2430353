def f(n):
    i = 0
    while i < n:
        i += 1
        T(i)
        if i == 4:
            break
        if i == 2:
            continue
        T("tail")
    else:
        T("else")
    T("end")
    return i


# %%
T(f(3))
T(f(6))
