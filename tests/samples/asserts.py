def check(x):
    T(("check", x))
    return x > 0


def f(x):
    assert T(x) or True
    assert check(x), T("never said")
    try:
        assert not check(T(x)), T(("said", x))
    except AssertionError as error:
        T(error.args)
    assert check(x) and check(x + 1), "message"
    return T("end")


# %%
T(f(1))
assert T("cell") == "cell", T("never")
T("behind")
