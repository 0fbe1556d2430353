"""No method of a user's class runs while its instances are described."""

import numpy as np
import pytest
import torch

from gpurescue.diagnosis.result import Kind
from gpurescue.diagnosis.summary import is_definition, summarise

ran = []


def trap(name):
    def method(*_, **__):
        ran.append(name)
        raise RuntimeError(name)

    return method


NAMES = (
    "__repr__ __str__ __len__ __getattr__ __iter__ __getitem__ __hash__ __eq__ "
    "__bool__ __format__ __contains__ __int__ __float__ __index__ __length_hint__ "
    "__array__ __torch_function__ __dir__ keys items values shape parameters "
    "named_parameters children modules extra_repr state_dict"
).split()
# Python needs these to work while the object is made.
LATE = {
    "__class__": property(trap("__class__")),
    "__dict__": property(trap("__dict__")),
}
TRAPS = {name: trap(name) for name in NAMES}


class Meta(type):
    armed = False

    def __getattribute__(cls, name):
        if Meta.armed:
            ran.append(f"Meta {name}")
        return super().__getattribute__(name)

    def __hash__(cls):
        if Meta.armed:
            ran.append("Meta hash")
        return id(cls)

    def __eq__(cls, other):
        if Meta.armed:
            ran.append("Meta eq")
        return cls is other

    def __instancecheck__(cls, value):
        ran.append("Meta instancecheck")
        return True


@pytest.fixture(autouse=True)
def nothing_runs():
    ran.clear()
    Meta.armed = False
    yield
    Meta.armed = False
    assert ran == []


def hostile(base, *args, **more):
    made = type("Hostile", (base,), {**TRAPS, **more})
    return base.__new__(made, *args) if base is not object else object.__new__(made)


@pytest.mark.parametrize(
    ("base", "args", "text"),
    [
        (object, (), "Hostile object"),
        (str, ("abc",), "Hostile 'abc'"),
        (int, (7,), "Hostile 7"),
        (float, (1.5,), "Hostile 1.5"),
        (bytes, (b"x",), "Hostile b'x'"),
        (tuple, ((1, 2),), "Hostile (1, 2)"),
        (frozenset, ((1,),), "Hostile {1}"),
        (list, (), "Hostile []"),
        (dict, (), "Hostile {}"),
        (set, (), "Hostile {}"),
    ],
)
def test_methods_of_subclasses_do_not_run(base, args, text):
    assert summarise(hostile(base, *args, **LATE)).text == text
    value = hostile(base, *args, **LATE)
    assert not is_definition(value)
    assert summarise([value]).text == f"[{text}]"


def test_a_property_named_dict_is_not_asked():
    class Base:
        pass

    made = type("Hostile", (Base,), {**TRAPS, "__dict__": property(trap("__dict__"))})
    value = object.__new__(made)
    object.__setattr__(value, "x", 1)
    assert summarise(value).text == "Hostile object: x=1"


def test_attribute_access_is_not_hooked():
    value = hostile(object, __getattribute__=trap("__getattribute__"))
    assert summarise(value).text == "Hostile object"


def test_a_metaclass_is_not_asked():
    Sly = Meta("Sly", (), {})
    value = Sly()
    Meta.armed = True
    found, held, itself = summarise(value), summarise({"k": value}), summarise(Sly)
    Meta.armed = False
    assert (found.text, held.text) == ("Sly object", "{'k': Sly object}")
    assert itself.text == "class Sly"


def test_a_module_of_the_users_is_only_looked_at():
    class Net(torch.nn.Module):
        parameters = children = modules = __repr__ = extra_repr = trap("Net")
        named_parameters = __len__ = __iter__ = trap("Net")

        @property
        def hidden(self):
            ran.append("hidden")

    net = Net()
    net.layer = torch.nn.Linear(2, 3)
    Net.__getattr__ = trap("__getattr__")
    assert summarise(net).text == "Net, 9 parameters, on cpu, train mode"


def test_an_optimizer_of_the_users_is_only_looked_at():
    class Adam2(torch.optim.Adam):
        __repr__ = state_dict = trap("Adam2")

    found = summarise(Adam2([torch.nn.Parameter(torch.ones(1))], lr=0.5))
    assert found.text == "Adam2, lr 0.5"


def test_a_dataset_is_not_asked_for_its_length():
    class Rows(torch.utils.data.Dataset):
        __len__ = __getitem__ = __repr__ = trap("Rows")

    loader = torch.utils.data.DataLoader(Rows(), batch_size=2)
    assert summarise(loader).text == "DataLoader of Rows, batch_size 2"


def test_a_tensor_type_with_functions_of_its_own():
    class Noisy(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *args, **kwargs):
            ran.append("__torch_function__")
            return NotImplemented

    value = torch.ones(3).as_subclass(Noisy)
    ran.clear()
    assert summarise(value).text == "Noisy [3] float32 cpu, min 1, max 1, mean 1"


def test_a_tensor_type_that_answers_itself_is_not_asked():
    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls):
            return torch.Tensor._make_wrapper_subclass(
                cls, (3,), dispatch_sizes_strides_policy="sizes"
            )

        @classmethod
        def __torch_dispatch__(cls, *args, **kwargs):
            ran.append("__torch_dispatch__")
            raise RuntimeError

    found = summarise(Wrapper())
    assert found.text == "Wrapper (a tensor type of its own)"
    assert found.kind is Kind.TENSOR


def test_a_mode_of_the_users_does_not_see_the_reading():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            ran.append(func)
            return func(*args, **(kwargs or {}))

    value = torch.ones(3)
    with Mode():
        text = summarise(value).text
    assert text == "tensor [3] float32 cpu, min 1, max 1, mean 1"


def test_an_array_type_of_the_users():
    class Grid(np.ndarray):
        __repr__ = __len__ = __array_ufunc__ = trap("Grid")

        def __array_finalize__(self, other):
            ran.append("__array_finalize__")

        @property
        def shape(self):
            ran.append("shape")

    value = np.ndarray.__new__(Grid, (2, 3))
    ran.clear()
    assert summarise(value).text == "Grid [2, 3] float64"


def test_a_lazy_module_is_not_loaded():
    kind = type("Lazy", (type(np),), {"__getattribute__": trap("load")})
    assert summarise(kind("lazy")).text == "module lazy"


def test_what_cannot_be_read_says_so(monkeypatch):
    monkeypatch.setattr("gpurescue.diagnosis.arrays.read", trap("read"))
    found = summarise(object())
    ran.clear()
    assert (found.text, found.kind) == ("<unreadable object>", Kind.UNREADABLE)
