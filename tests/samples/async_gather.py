import asyncio


async def step(name, n):
    for i in range(n):
        T((name, i))
        await asyncio.sleep(0)
    return T(name)


async def double(x):
    T(("double", x))
    await asyncio.sleep(0)
    return 2 * x


async def f():
    T(await step("a", 2) + await step("b", 1))
    total = await double(T(1)) + await double(T(2)) * T(3)
    T(total)
    T([await double(3), T(4)])
    values = await asyncio.wait_for(double(5), timeout=None)
    return T(values) if await double(0) == 0 else T("no")


# %%
T(await f())
