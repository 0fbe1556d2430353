import asyncio
import contextlib


class Manager:
    def __init__(self, name):
        self.name = name

    async def __aenter__(self):
        T(("enter", self.name))
        await asyncio.sleep(0)
        T("entered")
        return self.name

    async def __aexit__(self, *error):
        T(("exit", self.name, error[0] and error[0].__name__))
        await asyncio.sleep(0)


class Swallow(Manager):
    async def __aexit__(self, *error):
        T("swallow")
        return True


@contextlib.asynccontextmanager
async def managed(name):
    T(("managed", name))
    yield name


async def f(n):
    async with Manager("a") as a, Manager("b") as b:
        T((a, b))
        for i in range(n):
            async with Manager(i):
                if i == 1:
                    T("break")
                    break
                T("stay")
    async with Swallow("s"):
        T("raise")
        raise KeyError(1)
    async with managed("c") as c, Manager("d"):
        T(c)
        return T("out")


# %%
T(await f(3))
async with Manager(T("cell")) as name:
    T(name)
