import contextlib


@contextlib.contextmanager
def phase(name):
    T(("phase", name))
    yield name
    T(("done", name))


# %%
history = []
with phase("train") as name:
    for epoch in range(2):
        try:
            for step in range(2):
                loss = T(epoch) + T(step) * 0.5
                history.append(T(loss))
                if loss > 1:
                    raise OverflowError(T(loss))
        except OverflowError as error:
            T(error.args)
        else:
            T("clean")
        finally:
            history.append(T("end"))
best, *_ = sorted((x for x in history if x != "end"), key=float)
while len(history) > 4:
    T(history.pop())
match history:
    case [first, *others]:
        T((first, others))


def late(x):
    return T(x) + 1


T(late(best) if history else None)
assert T(history), "never"
{T(k): T(v) for k, v in ()}
T(best)
