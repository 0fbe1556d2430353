def f(n):
    for i in range(3):
        try:
            if T(i) == n:
                return T("early")
            if i == 1:
                T("skip")
                continue
        finally:
            T(("finally", i))
        T("behind")
    try:
        try:
            return T("inner")
        finally:
            T("first")
    finally:
        T("second")


def g():
    try:
        return max(T(1), T(2))
    finally:
        T(False and max(T(3), T(4)))


def h():
    while True:
        try:
            T("body")
            break
        finally:
            T("leaving")
    try:
        T(1)
    finally:
        for k in range(2):
            T(("clean", k))


# %%
for n in (0, 2, 5):
    T(f(n))
T(g())
h()
