def f(n):
    T("start")
    for i in range(n):
        T(i)
        if i == 5:
            T("break")
            break
        if i % 2:
            T("odd")
            continue
        T("even")
    else:
        T("else")
    T("end")
    return n


# %%
for n in (2, 7):
    T(f(n))
