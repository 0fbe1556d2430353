def f(a, b):
    x = T(a) and T(b) or T("or")
    T(x)
    y = (T("yes") if T(a) else T("no")) if T(b) else T("neither")
    T(y)
    T(T(a) or (T(b) and T("deep")) or "last")
    z = not T(a), (T(a) < T(2) < T(b)), T(1) in [T(2), T(1)]
    T(z)
    if T(a) and not T(b):
        T("if")
    elif T(b) or T("unseen"):
        T("elif")
    return (n := T(b)) and n + T(n)


# %%
for a in (0, 1):
    for b in (0, 3):
        T(f(a, b))
