def f():
    try:
        T(1)
        try:
            T(2)
            {}["missing"]
        except KeyError:
            T(3)
            try:
                T(4)
                raise ValueError("inner")
            except ValueError as inner:
                T(5)
                saved = inner
            T(6)
            raise
        finally:
            T(7)
    except LookupError as error:
        T(type(error).__name__)
        T(repr(saved))
    try:
        saved.args
        T(8)
    finally:
        T(9)
    return 10


# %%
T(f())
