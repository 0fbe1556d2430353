"""What torch.compile has made, made again in another program."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gpurescue.state import capture, rebuilding  # noqa: E402

# torch itself uses what torch says is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
compiled: list[int] = []


def counting(module, inputs):
    compiled.append(len(inputs))
    return module


def with_options(module, inputs, **options):
    compiled.append(options)
    return module


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    compiled.clear()
    yield
    torch._dynamo.reset()


def again(roots):
    captured = capture.capture(roots, ["float32"])
    assert captured.lost == {}
    storages = [torch.UntypedStorage(s.nbytes()).copy_(s) for s in captured.storages]
    tensors = {name: x.detach().clone() for name, x in captured.tensors.items()}
    parts = rebuilding.Parts(storages.__getitem__, [], tensors.__getitem__)
    torch._dynamo.reset()  # as in a process where nothing is compiled
    return capture.rebuilt(captured.objects, captured.streams, parts)


def test_a_module_is_compiled_again_and_shares_its_parameters():
    plain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    model = torch.compile(plain, backend=counting)
    seen = []
    model.register_forward_hook(lambda *given: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(3, 4)
    wanted = model(x)
    found = again(
        {"plain": plain, "model": model, "optimizer": optimizer, "seen": seen}
    )
    before = len(compiled)
    assert torch.equal(found["model"](x), wanted)
    assert len(compiled) == before + 1
    assert found["model"]._orig_mod is found["plain"]
    weight = found["plain"][0].weight
    assert found["optimizer"].param_groups[0]["params"][0] is weight
    assert found["model"].state_dict().keys() == model.state_dict().keys()
    assert found["seen"] == [1, 1]
    found["model"].eval()
    assert not found["plain"].training


def test_a_function_is_compiled_again():
    @torch.compile(backend=counting)
    def double(x):
        return x * 2

    double(torch.ones(3))
    found = again({"double": double})["double"]
    before = len(compiled)
    assert found(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert len(compiled) == before + 1
    assert found.__name__ == "double"


class Net(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_module_that_was_compiled_in_place_is_again():
    model = Net(4, 2)
    model.compile(backend=counting)
    x = torch.ones(1, 4)
    wanted = model(x)
    found = again({"model": model})["model"]
    before = len(compiled)
    assert torch.equal(found(x), wanted)
    assert len(compiled) == before + 1
    assert torch.equal(found.weight, model.weight)
    assert found.weight is not model.weight


OPTIONS = {
    "dynamic": {"dynamic": True, "backend": "eager"},
    "static": {"dynamic": False, "backend": "eager"},
    "fullgraph": {"fullgraph": True, "backend": "eager"},
    "mode": {"mode": "max-autotune-no-cudagraphs"},
    "options": {"options": {"max_autotune": True}},
    "by name": {"backend": "aot_eager"},
    "of a backend": {"backend": with_options, "options": {"level": 3}},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("is_module", [True, False])
def test_options_stay(name, is_module):
    plain = torch.nn.Linear(2, 2) if is_module else lambda x: x + 1
    value = torch.compile(plain, **OPTIONS[name])
    found = again({"value": value})["value"]
    twice = again({"value": found})["value"]
    assert _told(found) == _told(value) == _told(twice)


def _told(value):
    context = getattr(value, "dynamo_ctx", None) or _context(value)
    innermost = torch._dynamo.eval_frame.innermost_backend(context.callback)
    return (
        context.fullgraph,
        context._dynamic,
        type(innermost),
        getattr(innermost, "config", None) or getattr(innermost, "kwargs", None),
        getattr(innermost, "compiler_fn", None),
    )


def _context(function):
    names = function.__code__.co_freevars
    return dict(zip(names, function.__closure__, strict=True))["self"].cell_contents


def test_a_graph_that_cannot_be_whole_is_refused_again():
    @torch.compile(backend="eager", fullgraph=True)
    def breaking(x):
        torch._dynamo.graph_break()
        return x

    found = again({"f": breaking})["f"]
    with pytest.raises(torch._dynamo.exc.Unsupported):
        found(torch.ones(1))


def test_what_the_compiler_leaves_alone_is_left_alone_again():
    @torch.compiler.disable
    def plain(x):
        return x + 1

    @torch.compile(backend=counting)
    def around(x):
        return plain(x * 2) * 3

    assert again({"around": around})["around"](torch.ones(1)).item() == 9.0
    assert len(compiled) == 2
