def fact(n):
    T(("enter", n))
    if n == 0:
        T("bottom")
        return 1
    below = fact(n - 1)
    T(("leave", n))
    return n * below


# %%
T(fact(3))
