class M:
    def __init__(self, k):
        self.k = k

    def __enter__(self):
        return T(("in", self.k))

    def __exit__(self, *error):
        T(("out", self.k))


def f(mode):
    for i in range(2):
        with M("w"):
            try:
                for j in range(2):
                    with M("v"):
                        if mode == "return":
                            return T("r")
                        if mode == "break":
                            T("b")
                            break
                        if mode == "continue":
                            T("c")
                            continue
                        if mode == "raise":
                            raise KeyError(T("k"))
                    T("inner end")
                else:
                    T("inner else")
            except KeyError:
                T("caught")
                break
            finally:
                T("finally")
        T("outer end")
    else:
        T("outer else")
    return T(mode)


# %%
for mode in ("return", "break", "continue", "raise", ""):
    f(mode)
