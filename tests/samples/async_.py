import asyncio


class Manager:
    async def __aenter__(self):
        out.append("enter")
        return 1

    async def __aexit__(self, *args):
        out.append(("exit", args[0]))


class Items:
    def __init__(self):
        self.n = 3

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.n -= 1
        if self.n < 0:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        return self.n


async def work(x):
    T(("work", x))
    await asyncio.sleep(0)
    T("slept")
    async with Manager() as m:
        T(m)
        await asyncio.sleep(0)
        T("inside")
    async for item in Items():
        T(item)
        if item == 0:
            break
    try:
        T("try")
        return x + 1
    finally:
        T("finally")


# %%
T(await work(1))
