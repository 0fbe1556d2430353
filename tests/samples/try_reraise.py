class Wrapped(Exception):
    pass


def f(x):
    try:
        T("try")
        return {1: "one"}[x]
    except KeyError as error:
        T(error.args)
        raise Wrapped(T(x)) from error


def g(x):
    try:
        return f(x)
    except (Wrapped, TypeError) as error:
        T(type(error.__cause__).__name__)
        try:
            T("again")
            raise
        except Wrapped as inner:
            T(inner is error)
            raise ValueError(T("end")) from None


def h():
    for x in (1, 2):
        try:
            T(g(x))
        except ValueError as error:
            T((error.args, error.__cause__, type(error.__context__).__name__))
            saved = error
        else:
            T("fine")
    return saved


# %%
T(type(h()).__name__)
