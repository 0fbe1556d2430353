import contextlib


@contextlib.contextmanager
def managed(name):
    out.append(("enter", name))
    try:
        yield name
    finally:
        out.append(("exit", name))


def f():
    with contextlib.ExitStack() as stack:
        for n in "ab":
            T(stack.enter_context(managed(n)))
        T("all")
    with contextlib.suppress(KeyError):
        T("before")
        {}["x"]
        T("never")
    with managed("m") as m:
        T(m)
    T("end")


# %%
f()
