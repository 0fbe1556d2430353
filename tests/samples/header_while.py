def f(n):
    while T(n) - T(1) > 0 and T("and"):
        n -= 1
        T(("body", n))
        if n == 2:
            continue
        T("tail")
    else:
        T("else")
    while T(n) and T("again"):
        T("in")
        break
    else:
        T("never")
    return n


# %%
T(f(3))
left = 2
while T(left) > T(0):
    left -= T(1)
