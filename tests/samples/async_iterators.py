import asyncio


async def wait(x):
    T(("wait", x))
    await asyncio.sleep(0)
    return T(x)


async def collect(source):
    found = []
    async for item in source:
        found.append(T(item))
        if len(found) > 2:
            break
    else:
        T("all")
    return found


class Ticks:
    def __init__(self, n):
        self.n = n

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.n == 0:
            raise StopAsyncIteration
        self.n -= 1
        return await wait(self.n)


# %%
T(await collect(Ticks(2)))
T(await collect(Ticks(4)))
async for item in Ticks(1):
    T(("cell", item))
