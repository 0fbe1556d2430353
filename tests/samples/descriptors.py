class Positive:
    def __set_name__(self, owner, name):
        self.name = "_" + name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        T(("get", self.name))
        return getattr(instance, self.name)

    def __set__(self, instance, value):
        T(("set", self.name, value))
        if value < 0:
            raise ValueError(value)
        setattr(instance, self.name, value)
        T("stored")


class Account:
    amount = Positive()

    def __init__(self, amount):
        self.amount = amount
        T("made")

    def spend(self, x):
        T(("spend", x))
        self.amount -= x
        return self.amount


# %%
account = Account(T(10))
T(account.spend(T(3)))
try:
    account.spend(100)
except ValueError as error:
    T(error.args)
