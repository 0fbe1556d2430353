def f():
    for i in range(3):
        T("a")
        for j in range(3):
            T((i, j))
            for k in "xy":
                T(k)
                if j == 1:
                    break
            else:
                T("inner else")
                continue
            T("after break")
        T("row")
    T("done")


# %%
f()
