total = 0
log = []


def bump(k):
    global total
    T(("bump", k))
    total += k
    return total


def use():
    global total, fresh
    x = bump(1) + total
    T(x)
    T((total, bump(2), total))
    total = T(total) + 1
    fresh = T("fresh")
    del fresh
    return total, "fresh" in globals()


# %%
T(use())
T((total, bump(1), total))
n = 0
n = n + bump(T(1))
T(n)
