class Record:
    def __init__(self, **fields):
        object.__setattr__(self, "fields", fields)

    def __getattr__(self, name):
        T(("getattr", name))
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        T(("setattr", name))
        self.fields[name] = value

    def __delattr__(self, name):
        T(("delattr", name))
        del self.fields[name]


# %%
record = Record(a=1)
T(record.a)
record.b = T(2)
T(record.b)
del record.a
record.c = record.b
T(sorted(record.fields))
