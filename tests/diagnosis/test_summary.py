import collections
import dataclasses
import enum
import random
import sys
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from gpurescue.diagnosis import reflection
from gpurescue.diagnosis.result import Budget, Kind
from gpurescue.diagnosis.summary import is_definition, summarise


class Color(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Config:
    lr: float = 0.1
    steps: int = 3
    name: str = "a"
    tensor: object = None
    more: int = 0


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = 8
        self.first = torch.nn.Linear(4, 8)
        self.again = self.first


Point = collections.namedtuple("Point", "x y")


def numbered():
    yield 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (10**4000, "int of 13,288 bits"),
        (1.5, "1.5"),
        (2j, "2j"),
        ("it's", '"it\'s"'),
        ("a\x1b[31m\u202e", r"'a\x1b[31m\u202e'"),
        (b"ab", "b'ab'"),
        (range(5), "range(0, 5)"),
        (PurePosixPath("/data/x"), "Path '/data/x'"),
        (Color.RED, "Color.RED"),
        (Level.LOW, "Level.LOW"),
        ([1, 0.123456789], "[1, 0.123457]"),
        ((1,), "(1,)"),
        (set(), "set {}"),
        ({1}, "{1}"),
        (list(range(100)), "[0, 1, 2, 3, ...] (100 items)"),
        ([1, [2, [3, [4]]]], "[1, [2, [...] (2 items)]]"),
        (Point(1, 2), "Point (1, 2)"),
        (collections.OrderedDict(a=1), "OrderedDict {'a': 1}"),
        (collections.deque([1]), "deque [1]"),
        (Config(), "Config object: lr=0.1, steps=3, name='a', tensor=None, and 1 more"),
        (object(), "object object"),
        (numbered(), "generator numbered"),
    ],
)
def test_plain_values(value, text):
    assert summarise(value).text == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (len, "function len"),
        (numbered, "function numbered"),
        (Config, "class Config"),
        (random, "module random"),
        (Config().__init__, "method Config.__init__"),
    ],
)
def test_definitions(value, text):
    found = summarise(value)
    assert (found.text, found.kind) == (text, Kind.DEFINITION)
    assert is_definition(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor(3.5), "tensor 3.5 float32 cpu"),
        (torch.tensor(True), "tensor True bool cpu"),
        (torch.tensor([True, False]), "tensor [2] bool cpu, 1 of 2 true"),
        (torch.arange(4), "tensor [4] int64 cpu, min 0, max 3, mean 1.5"),
        (torch.empty(0, 3), "tensor [0, 3] float32 cpu"),
        (torch.ones(2, device="meta"), "tensor [2] float32 meta"),
        (torch.ones(2, dtype=torch.complex64), "tensor [2] complex64 cpu"),
        (torch.eye(2).to_sparse(), "tensor [2, 2] float32 cpu, sparse, 2 stored"),
        (torch.ones(1).expand(10**9), "tensor [1000000000] float32 cpu"),
        (
            torch.ones(2, dtype=torch.bfloat16, requires_grad=True),
            "tensor [2] bfloat16 cpu, requires grad, min 1, max 1, mean 1",
        ),
        (
            torch.nn.Parameter(torch.ones(2), requires_grad=False),
            "Parameter [2] float32 cpu, min 1, max 1, mean 1",
        ),
        (
            torch.ones(3, dtype=torch.uint16),
            "tensor [3] uint16 cpu, min 1, max 1, mean 1",
        ),
        (torch.device("cpu"), "device cpu"),
        (torch.float16, "dtype torch.float16"),
        (torch.Size([2, 3]), "Size (2, 3)"),
    ],
)
def test_tensors(value, text):
    assert summarise(value).text == text


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_rare_kinds():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    assert summarise(nested).text == "nested tensor of 2, float32 cpu"
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    assert summarise(quantized).text == "tensor [3] qint8 cpu, quantized"
    rows = torch.eye(2).to_sparse_csr()
    assert summarise(rows).text == "tensor [2, 2] float32 cpu, sparse csr"
    with torch.inference_mode():
        made = torch.ones(2)
    assert summarise(made).text == "tensor [2] float32 cpu, min 1, max 1, mean 1"


def test_a_tensor_inside_torch_func_shows_its_shape_only():
    seen = []
    torch.func.vmap(lambda x: (seen.append(summarise(x).text), x)[1])(torch.ones(3, 2))
    assert seen == ["tensor [2] float32 cpu, inside torch.func"]


def test_not_finite_numbers_are_counted():
    nan, inf = float("nan"), float("inf")
    found = summarise(torch.tensor([1.0, nan, inf, nan, 3.0, -inf]))
    assert found.text == "tensor [6] float32 cpu, min 1, max 3, mean 2"
    assert found.warning == "2 NaN, 2 inf"
    assert str(found).endswith("mean 2, 2 NaN, 2 inf")
    assert summarise(torch.full((3,), nan)).warning == "all NaN"
    assert summarise(np.array([nan, 1.0])).warning == "1 NaN"
    assert summarise(np.float32(nan)).warning == "not finite"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.ones((2, 3)), "array [2, 3] float64, min 1, max 1, mean 1"),
        (np.array(3), "array 3 int64"),
        (np.array([True, True]), "array [2] bool, 2 of 2 true"),
        (np.array(["ab"]), "array [1] str64"),
        (np.array([object()]), "array [1] object"),
        (np.zeros(0), "array [0] float64"),
        (np.ma.array([1]), "MaskedArray [1] int64"),
        (np.full(9, 6e4, "f2"), "array [9] float16, min 60000, max 60000, mean 60000"),
        (np.float64(2.5), "float64 2.5"),
        (np.bool_(True), "bool True"),
        (pd.DataFrame({"a": [1], "b": [2]}), "DataFrame [1, 2]: a, b"),
        (pd.DataFrame(columns=range(9)), "DataFrame [0, 9]: 0, 1, 2, 3, ..."),
        (pd.Series([1]), "Series [1] int64"),
    ],
)  # fmt: skip
def test_arrays_and_tables(value, text):
    assert summarise(value).text == text


def test_models_optimizers_and_loaders():
    net = Net().eval()
    text = "Net(hidden=8), 40 parameters, on cpu, eval mode"
    assert summarise(net).text == text
    assert summarise(net).kind is Kind.MODEL
    assert summarise(net.first).text == (
        "Linear(in_features=4, out_features=8), 40 parameters, on cpu, eval mode"
    )
    groups = [
        {"params": [p], "lr": lr}
        for p, lr in zip(net.parameters(), (0.1, 0.2), strict=True)
    ]
    assert summarise(torch.optim.SGD(groups)).text == "SGD, lr 0.1, 0.2, 2 groups"
    data = TensorDataset(torch.ones(10, 2))
    assert summarise(DataLoader(data, batch_size=4, shuffle=True)).text == (
        "DataLoader of TensorDataset (10 samples), batch_size 4, 3 batches"
    )
    part = DataLoader(Subset(data, [1, 2, 3]), batch_size=2, drop_last=True)
    assert summarise(part).text == (
        "DataLoader of Subset (3 samples), batch_size 2, 1 batches"
    )


def test_a_module_that_holds_itself_is_counted_once():
    net = Net()
    net._modules["self"] = net
    assert summarise(net).text.startswith("Net(hidden=8), 40 parameters")


def test_huge_values_are_cut_and_fast(timed):
    values = [
        "x" * 10**7,
        b"x" * 10**7,
        list(range(10**6)),
        dict.fromkeys(range(10**6)),
    ]
    values += [10 ** (10**6), ["y" * 10**6] * 10**6, [[[["z"] * 10**5] * 10**5]]]
    for value in values:
        with timed(0.2):
            assert len(str(summarise(value))) <= 200
    assert summarise("x" * 10**7).text.endswith("... (10,000,000 characters)")


def test_a_list_that_holds_itself_ends():
    loop = []
    loop.append(loop)
    assert summarise(loop).text == "[[[...] (1 item)]]"


def test_the_budget_bounds_what_is_read():
    budget = Budget(elements=1000)
    tensor = torch.ones(600)
    assert "mean" in summarise(tensor, budget=budget).text
    assert "mean" not in summarise(tensor, budget=budget).text
    assert "mean" not in summarise(torch.ones(1_000_001)).text


def test_no_stream_of_random_numbers_moves():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    loader = DataLoader(list(range(9)), shuffle=True)
    for value in (torch.rand, torch.ones(99), np.ones(9), Net.__mro__, loader):
        summarise(value)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2][1], np.random.get_state()[1])


def test_gradients_and_versions_stay_as_they_are():
    leaf = torch.ones(3, requires_grad=True)
    grown = leaf * 2
    version = grown._version
    summarise(grown)
    assert grown._version == version
    assert leaf.grad is None
    assert torch.is_grad_enabled()


def test_libraries_that_are_not_loaded_stay_so(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] in {"torch", "pandas"}]:
        monkeypatch.delitem(sys.modules, name)
    assert summarise([1, Config()]).text == "[1, Config object]"
    assert "torch" not in sys.modules
    assert reflection.library_class("torch", "Tensor") is None


def test_a_library_that_is_half_loaded_is_no_obstacle(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    assert summarise(3).text == "3"
    assert summarise(Config()).text.startswith("Config object")
