counter = 0


def bump(k):
    global counter
    T("bump")
    counter += k
    for i in range(2):
        T(counter)
        counter += 1
    if k:
        global extra
        extra = k
        T("extra")
    return counter


# %%
T(bump(1))
T(bump(2))
T((counter, extra))
