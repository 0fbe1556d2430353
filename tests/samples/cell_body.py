def noop():
    pass


# %%
total = 0
for epoch in range(2):
    T(("epoch", epoch))
    for step in range(3):
        if step == 2 and epoch == 1:
            T("skip")
            break
        T(("step", step))
        total += step
        try:
            T("in try")
            if step == 1:
                raise KeyError(step)
        except KeyError as error:
            T(error.args)
            continue
        T("tail")
    else:
        T("else")
match total:
    case 3:
        T("three")
    case _:
        T("other")
while total > 0:
    total -= 2
    T(total)
T([x for x in range(total, 4)])
