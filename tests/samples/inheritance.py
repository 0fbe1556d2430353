class A:
    def __init__(self, x):
        T("A")
        self.x = x

    def run(self):
        T("A.run")
        return [self.x]

    @classmethod
    def make(cls, x):
        T(cls.__name__)
        return cls(x)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)


class B(A):
    def run(self):
        T("B.run")
        return super().run() + ["B"]


class C(A):
    def run(self):
        T("C.run")
        found = super().run()
        T("C.back")
        return found + ["C"]


class D(B, C):
    def __init__(self, x):
        T("D")
        super().__init__(T(x))
        A.run(self)

    def run(self):
        result = [*super().run(), T("D")]
        return result + [super(B, self).run()[T(0)]]

    @classmethod
    def make(cls, x):
        return super().make(x + T(1))


# %%
T(D.make(T(1)).run())
