class Chain:
    def __init__(self):
        self.log = []

    def add(self, x, y=0):
        T(("add", x, y))
        self.log.append(x + y)
        return self


def f(n):
    chain = (
        Chain()
        .add(T(1))
        .add(
            T(2),
            y=T(3),
        )
        .add(T(4))
    )
    result = T(n) + T(n + 1) * (T(2) - T(1))
    T(result)
    T("same line")
    if T(1) and T(2):
        T("short")
    return [
        T(chain.log),
        *[T(x) for x in ()],
        T(result),
    ]


# %%
T(f(1))
