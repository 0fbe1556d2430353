def f():
    import math as m
    from collections import OrderedDict, defaultdict as dd
    import os.path

    T(m.floor(T(1.5)))
    table = dd(list)
    table[T("k")].append(T(1))
    T(dict(table))
    T(os.path.join(T("a"), T("b")))
    return OrderedDict(a=T(1))


# %%
T(f())
import json, re

T(json.dumps({"a": T([1])}))
T(re.sub("a", "b", T("aa")))
