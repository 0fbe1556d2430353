def f(x):
    if x > 2:
        T("big")
        kind = "big"
    elif x == 1:
        T("one")
        kind = "one"
    else:
        T("small")
        kind = "small"
    match (x, kind):
        case (3, k):
            T("three")
            T(k)
        case (_, "one") if T("guard"):
            T("matched one")
        case _:
            T("other")
    return kind


# %%
for x in range(4):
    T(f(x))
