class V:
    def __init__(self, x):
        self.x = x

    def __add__(self, other):
        T(("add", self.x))
        return V(self.x + getattr(other, "x", other))

    __radd__ = __add__

    def __iadd__(self, other):
        T(("iadd", other))
        self.x += other
        return self

    def __eq__(self, other):
        T(("eq", self.x))
        return self.x == other.x

    def __lt__(self, other):
        T(("lt", self.x))
        return self.x < other.x

    def __bool__(self):
        T(("bool", self.x))
        return self.x != 0

    def __neg__(self):
        T("neg")
        return V(-self.x)

    def __call__(self, y):
        T(("call", y))
        return self.x + y

    def __matmul__(self, other):
        T("matmul")
        return self.x * other.x

    def __hash__(self):
        return hash(self.x)

    def __repr__(self):
        return f"V({self.x})"


# %%
a, b = V(1), V(2)
T(repr(a + b))
T(repr(5 + a))
a += T(3)
T((a == b, a < b, a @ b, a(T(4)), repr(-a)))
if a and not V(0):
    T("true")
T(repr(max(a, b)))
T([repr(v) for v in sorted([a, b])])
