def f():
    made = []
    for i in range(3):
        T(i)

        def g(x=i):
            return x + i

        class C:
            k = i

            def m(self):
                T("m")
                return self.k

        made.append(g)
        T(C().m())
    return T([m() for m in made])


# %%
T(f())


def late(x):
    T("late")
    return x


T(late(1))
