"""Restoring a checkpoint into live objects: at once, and as they are used."""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from saving import save_tensors, spoil
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from gpurescue.errors import Damaged, UsageError
from gpurescue.state import slots
from gpurescue.state.named import named, tree
from gpurescue.store import restore as restoring
from gpurescue.store.reading import Reader
from gpurescue.store.restore import restore
from gpurescue.store.store import Store

_IMAGES, _LABELS = load_digits(return_X_y=True)
IMAGES = torch.tensor(_IMAGES, dtype=torch.float32) / 16
LABELS = torch.tensor(_LABELS)


@pytest.fixture(autouse=True)
def tidy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Small tensors are mapped too, and nothing is left behind."""
    monkeypatch.setattr(restoring, "_LARGE", 256)
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "gpurescue-restore":
            thread.join(30)
    assert not hooks()


def hooks() -> list[Any]:
    found = [
        *nn.modules.module._global_forward_pre_hooks,
        *nn.modules.module._global_forward_hooks,
        *sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks,
    ]
    return [hook for hook in found if str(hook).startswith("gpurescue-restore")]


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            *(nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU()),
            *(nn.Dropout(0.1), nn.Linear(40, 10)),
        )


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 36, 10)

    def forward(self, x):
        x = self.norm(self.conv(x.view(-1, 1, 8, 8)))
        return self.head(x.relu().flatten(1))


class Tied(nn.Module):
    """Reads its pixels as tokens; positions are read without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(18, 16)
        self.positions = nn.Embedding(64, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.unembed = nn.Linear(16, 18, bias=False)
        self.unembed.weight = self.tokens.weight

    def forward(self, x):
        found = self.tokens((x * 16).long()) + self.positions.weight
        return self.unembed(self.encoder(found).mean(1))


OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=4),
}


class Program:
    """What a notebook has: a model, its optimizer, an average of its weights."""

    def __init__(self, model: type[nn.Module] = Perceptron, optimizer: str = "Adam"):
        torch.manual_seed(0)
        self.model = model()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.averaged = {n: p.detach() * 0.5 for n, p in self.model.named_parameters()}

    @property
    def variables(self) -> dict[str, object]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "averaged": self.averaged,
        }

    def train(self, start: int, stop: int) -> list[float]:
        losses = []
        for step in range(start, stop):
            torch.manual_seed(step)
            loss = self.optimizer.step(lambda step=step: self.loss(step))
            losses.append(loss.item())
            for name, parameter in self.model.named_parameters():
                self.averaged[name].lerp_(parameter.detach(), 0.1)
        return losses

    def loss(self, step: int) -> torch.Tensor:
        self.optimizer.zero_grad()
        rows = slice(step * 32, step * 32 + 32)
        loss = F.cross_entropy(self.model(IMAGES[rows]), LABELS[rows])
        loss.backward()
        return loss

    def save(self, store: Store) -> tuple[Any, dict[str, Any]]:
        found = tree(self.variables)
        return save_tensors(store, found.tensors), slots.skeletons(found)

    def state(self) -> dict[str, bytes]:
        found = named(self.variables)
        return {k: t.detach().contiguous().numpy().tobytes() for k, t in found.items()}


PROGRAMS = [
    *[(Perceptron, kind) for kind in OPTIMIZERS],
    *((Convolution, "AdamW fused"), (Tied, "Adam"), (Tied, "SGD")),
]


@pytest.mark.parametrize("is_fresh", [False, True], ids=["same objects", "fresh"])
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize(("model", "optimizer"), PROGRAMS)
def test_training_goes_on_bit_for_bit(
    store: Store, model: type[nn.Module], optimizer: str, lazy: bool, is_fresh: bool
) -> None:
    program = Program(model, optimizer)
    program.train(0, 3)
    manifest, skeletons = program.save(store)
    saved = program.state()
    expected = program.train(3, 6)
    end = program.state()
    if is_fresh:
        program = Program(model, optimizer)
    parameters = list(program.model.parameters())
    restored = restore(
        Reader(store, manifest), program.variables, skeletons=skeletons, lazy=lazy
    )
    assert program.state() == saved
    assert program.train(3, 6) == expected
    assert program.state() == end
    assert [*map(id, parameters)] == [*map(id, program.model.parameters())]
    assert restored.is_checked
    assert set(restored.names) == set(manifest.tensors)


@pytest.mark.parametrize("lazy", [False, True])
def test_state_that_was_made_after_the_checkpoint_is_dropped(
    store: Store, lazy: bool
) -> None:
    program = Program()
    manifest, _ = program.save(store)
    expected = program.train(0, 3)
    restored = restore(Reader(store, manifest), program.variables, lazy=lazy)
    assert "optimizer.model.0.weight.exp_avg" in restored.dropped
    assert not program.optimizer.state
    assert program.train(0, 3) == expected


def test_random_streams_are_left_alone(store: Store) -> None:
    program = Program()
    program.train(0, 1)
    manifest, _ = program.save(store)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    restore(Reader(store, manifest), program.variables).wait()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


# --- what is used before anything is called ---


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold the thread that goes ahead, until the event is set."""
    go = threading.Event()
    run = restoring.Residence._run
    monkeypatch.setattr(
        restoring.Residence, "_run", lambda self: go.wait(30) and run(self)
    )
    return go


def test_weights_have_their_values_at_once_and_can_be_set_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(monkeypatch)
    program = Program()
    manifest, _ = program.save(store)
    before = program.model[0].weight.detach().clone()
    program.train(0, 1)
    restored = restore(Reader(store, manifest), program.variables)
    assert not restored.is_checked
    assert torch.equal(program.model[0].weight, before)
    with torch.no_grad():
        program.model[4].weight.fill_(3)
    go.set()
    restored.wait()
    assert (program.model[4].weight == 3).all()
    assert torch.equal(program.model[0].weight, before)
    assert not store.verify()


def test_what_is_written_before_the_first_step_stays(store: Store) -> None:
    program = Program()
    manifest, _ = program.save(store)
    restored = restore(Reader(store, manifest), program.variables)
    alias = program.model[4].weight.detach().numpy()
    restored._residence.join()  # copies are made by now
    alias[0] = 3
    restored.wait()
    assert (program.model[4].weight[0] == 3).all()
    alias[1] = 4
    assert (program.model[4].weight[1] == 4).all()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_waits_for_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(monkeypatch)
    program = Program()
    manifest, _ = program.save(store)
    restored = restore(Reader(store, manifest), program.variables)
    with restored._residence._units[0].lock:  # as the thread would hold it
        child = os.fork()
        if child == 0:
            program.model(IMAGES[:4])
            os._exit(0)
        for _ in range(300):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child waits for a thread that it does not have")
    assert status == 0
    go.set()
    restored.wait()


def test_hooks_of_others_are_called_as_ever(store: Store) -> None:
    program = Program()
    program.train(0, 1)
    manifest, _ = program.save(store)
    called = []
    register = torch.optim.Optimizer.register_step_pre_hook
    optim = sys.modules["torch.optim.optimizer"]
    first = optim.register_optimizer_step_pre_hook(lambda *_: called.append("first"))
    restored = restore(Reader(store, manifest), program.variables)
    last = optim.register_optimizer_step_pre_hook(lambda *_: called.append("last"))
    own = register(program.optimizer, lambda *_: called.append("own"))
    try:
        program.train(1, 3)
        assert called == ["first", "last", "own"] * 2
        last.remove()
        program.train(3, 4)
        assert not hooks()
        assert restored.is_checked
    finally:
        for handle in (first, last, own):
            handle.remove()


def test_a_default_device_changes_nothing(store: Store) -> None:
    program = Program()
    program.train(0, 1)
    manifest, _ = program.save(store)
    saved = program.state()
    program = Program()
    with torch.device("meta"):
        restored = restore(Reader(store, manifest), program.variables)
    assert program.state() == saved
    restored.wait()


def test_a_forward_and_a_step_need_no_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(monkeypatch)
    program = Program(Tied)
    program.train(0, 2)
    manifest, _ = program.save(store)
    expected = program.train(2, 4)
    restored = restore(Reader(store, manifest), program.variables)
    program.model(IMAGES[:4])
    assert not restored.is_checked  # the optimizer's state is not
    assert program.train(2, 3) == expected[:1]
    assert restored.is_checked
    assert not hooks()
    go.set()


def test_forwards_in_other_threads_may_go_on(store: Store) -> None:
    program = Program(Tied)
    program.model.eval()
    manifest, _ = program.save(store)
    expected = program.model(IMAGES[:8])
    fresh = Program(Tied)
    fresh.model.eval()
    with torch.no_grad():
        for parameter in fresh.model.parameters():
            parameter.zero_()
    restored = restore(Reader(store, manifest), fresh.variables)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fresh.model(IMAGES[:8])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(x, expected) for x in found)
    assert len(found) == 4
    restored.wait()


def test_the_files_are_of_no_importance_when_all_is_read(store: Store) -> None:
    program = Program()
    program.train(0, 1)
    manifest, _ = program.save(store)
    saved = program.state()
    restored = restore(Reader(store, manifest), program.variables)
    restored.wait()
    restored._residence.join()
    for path in (store.path / "packs").iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    assert program.state() == saved


# --- damage ---


@pytest.mark.parametrize("name", ["model.0.weight", "averaged.0.weight"])
def test_damage_is_found_before_anything_is_written(store: Store, name: str) -> None:
    program = Program()
    manifest, _ = program.save(store)
    spoil(store, manifest, name)
    program.train(0, 1)
    now = program.state()
    lazy = name.startswith("averaged")  # nothing would wait for a tensor of nobody
    with pytest.raises(Damaged, match=f"^{name}: "):
        restore(Reader(store, manifest), program.variables, lazy=lazy)
    assert program.state() == now


@pytest.mark.parametrize("name", ["model.tokens.weight", "model.positions.weight"])
def test_a_damaged_weight_gets_out_of_no_forward(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(monkeypatch)
    program = Program(Tied)
    manifest, _ = program.save(store)
    spoil(store, manifest, name)
    restore(Reader(store, manifest), program.variables)
    for _ in range(2):
        with pytest.raises(Damaged, match=f"^{name}: "):
            program.model(IMAGES[:4])
    go.set()
    with pytest.raises(Damaged, match=f"^{name}: "):
        program.model(IMAGES[:4])


def test_nothing_is_trained_on_damaged_state(store: Store) -> None:
    program = Program()
    program.train(0, 2)
    manifest, _ = program.save(store)
    other = save_tensors(store, {k: t + 1 for k, t in named(program.variables).items()})
    name = "optimizer.model.0.weight.exp_avg_sq"
    spoil(store, manifest, name)
    restored = restore(Reader(store, manifest), program.variables)
    program.model(IMAGES[:4]).sum().backward()
    before = program.state()
    with pytest.raises(Damaged, match=f"^{name}: "):
        program.optimizer.step()
    with pytest.raises(Damaged, match=f"^{name}: "):
        restored.wait()
    assert program.state() == before
    restore(Reader(store, other), program.variables)
    program.train(2, 3)  # another checkpoint is the way out


def test_what_was_not_restored_is_trained_all_the_same(store: Store) -> None:
    program, other = Program(), Program()
    manifest, _ = program.save(store)
    spoil(store, manifest, "model.0.weight")
    restored = restore(Reader(store, manifest), program.variables)
    restored._residence.join()
    other.train(0, 1)
    with pytest.raises(Damaged):
        torch.optim.SGD(program.model.parameters()).step()


# --- what does not fit ---


def refused(store: Store, saved: dict, live: dict, **options: Any) -> str:
    manifest = save_tensors(store, named(saved))
    before = {k: t.detach().clone() for k, t in named(live).items()}
    with pytest.raises(UsageError, match=r"^Nothing was restored: ") as found:
        restore(Reader(store, manifest), live, **options)
    assert all(torch.equal(t, before[k]) for k, t in named(live).items())
    return str(found.value)


def test_other_shapes_and_dtypes_are_refused(store: Store) -> None:
    saved = {"a": torch.zeros(3), "b": torch.zeros(2, 3), "c": torch.zeros(1)}
    live = {"a": torch.ones(3), "b": torch.ones(3, 2), "c": torch.ones(1).half()}
    for strict in (True, False):
        text = refused(store, saved, live, strict=strict)
        assert "b has shape (2, 3) there and (3, 2) here" in text
        assert "c is float32 there and torch.float16 here" in text


def test_names_on_one_side_only_are_refused_or_reported(store: Store) -> None:
    saved, live = {"a": torch.zeros(3), "b": torch.zeros(2)}, {"a": torch.ones(3)}
    assert "only the checkpoint has: b" in refused(store, saved, live)
    manifest = save_tensors(store, saved)
    restored = restore(Reader(store, manifest), live, strict=False)
    assert restored.unused == ("b",)
    assert torch.equal(live["a"], torch.zeros(3))
    live["c"] = torch.ones(5)
    assert "the checkpoint lacks: c" in refused(store, {"a": torch.zeros(3)}, live)
    restored = restore(Reader(store, manifest), live, strict=False)
    assert restored.missing == ("c",)
    assert torch.equal(live["c"], torch.ones(5))


def test_optimizers_are_left_alone_if_only_weights_were_saved(store: Store) -> None:
    program = Program()
    program.train(0, 2)
    manifest = save_tensors(store, named({"model": program.model}))
    program.train(2, 3)
    moments = named({"model": program.model, "optimizer": program.optimizer})
    before = {k: t.clone() for k, t in moments.items() if k.startswith("optimizer")}
    restored = restore(Reader(store, manifest), program.variables, strict=False)
    after = named(program.variables)
    assert all(torch.equal(after[k], t) for k, t in before.items())
    assert set(before) <= set(restored.missing)
    restored.wait()


def test_ties_must_be_the_same_on_both_sides(store: Store) -> None:
    model, base = Tied(), torch.zeros(8)
    untied = copy.deepcopy(model)
    untied.unembed.weight = nn.Parameter(torch.ones(18, 16))
    text = refused(store, {"model": untied}, {"model": model})
    assert "model.unembed.weight share memory here, and not there" in text
    text = refused(store, {"model": model}, {"model": untied})
    assert "share memory there, and not here" in text
    text = refused(
        store, {"a": base[:5], "b": base[3:]}, {"a": base[:5], "b": base[2:7]}
    )
    assert "a and b share memory here, and not there" in text


def test_one_name_is_enough_for_a_tied_weight(store: Store) -> None:
    model = Tied()
    saved = {k: t for k, t in named({"model": model}).items() if "unembed" not in k}
    manifest = save_tensors(store, {k: t.detach() + 1 for k, t in saved.items()})
    restored = restore(Reader(store, manifest), {"model": model})
    assert restored.missing == ()
    assert model.unembed.weight is model.tokens.weight
    restored.wait()


def test_views_of_one_storage_stay_views(store: Store) -> None:
    base = torch.arange(1000.0)
    live = {"model": nn.Linear(2, 2), "base": base, "part": base[10:20]}
    live["model"].table = nn.Parameter(torch.zeros(50, 50))
    live["model"].alias = nn.Parameter(live["model"].table.data)
    row = live["model"].table.data[3]  # that nobody can be asked for
    manifest = save_tensors(store, {k: t.detach() for k, t in named(live).items()})
    with torch.no_grad():
        base.zero_()
        live["model"].table.fill_(7)
    restore(Reader(store, manifest), live).wait()
    assert torch.equal(live["part"], torch.arange(10.0, 20.0))
    live["base"][10] = -1
    assert live["part"][0] == -1
    assert not row.any()
    del row
    restore(Reader(store, manifest), live).wait()  # now it is mapped
    with torch.no_grad():
        live["model"].table[4] = 5
    assert (live["model"].alias[4] == 5).all()


@pytest.mark.parametrize("lazy", [False, True])
def test_memory_formats_and_expanded_tensors_are_kept(store: Store, lazy: bool) -> None:
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    model.register_buffer("mask", torch.ones(1, 300).expand(4, 300))
    manifest = save_tensors(store, named({"model": model}))
    expected = copy.deepcopy(model.state_dict())
    stride = model.weight.stride()
    other = nn.Conv2d(8, 8, 3)
    other.register_buffer("mask", torch.zeros(1, 300).expand(4, 300))
    for live in (model, other):
        kept = live.weight.stride()
        restore(Reader(store, manifest), {"model": live}, lazy=lazy).wait()
        assert live.weight.stride() == kept
        assert all(torch.equal(t, expected[k]) for k, t in live.state_dict().items())
    assert stride != other.weight.stride()


@pytest.mark.parametrize("lazy", [False, True])
def test_state_that_is_made_has_the_strides_that_it_had(
    store: Store, lazy: bool
) -> None:
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    model(torch.ones(1, 8, 4, 4)).sum().backward()
    optimizer.step()
    saved = named({"model": model, "optimizer": optimizer})
    wide = torch.arange(40.0).view(8, 5)[:, ::2]
    saved["optimizer.model.bias.wide"] = wide
    manifest = save_tensors(store, saved)
    fresh = OPTIMIZERS["Adam"](model.parameters())
    variables = {"model": model, "optimizer": fresh}
    restore(Reader(store, manifest), variables, lazy=lazy).wait()
    for name in ("exp_avg", "exp_avg_sq"):
        before, after = (o.state[model.weight][name] for o in (optimizer, fresh))
        assert after.stride() == before.stride()
        assert torch.equal(after, before)
    assert fresh.state[model.bias]["step"].item() == 1
    assert torch.equal(fresh.state[model.bias]["wide"], wide)


def test_a_tensor_without_memory_is_refused(store: Store) -> None:
    with torch.device("meta"):
        live = {"model": nn.Linear(3, 3)}
    manifest = save_tensors(store, named({"model": nn.Linear(3, 3)}))
    with pytest.raises(UsageError, match="device meta"):
        restore(Reader(store, manifest), live)


def test_a_hostile_state_has_no_absurd_size(store: Store) -> None:
    program = Program()
    saved = {k: t.detach() for k, t in named(program.variables).items()}
    wide = torch.ones(1).expand(2**40)
    for name in ("exp_avg", "old_dirs.99999999999", "old_dirs.7"):
        value = wide if name == "exp_avg" else torch.ones(1)
        manifest = save_tensors(
            store, saved | {f"optimizer.model.0.weight.{name}": value}
        )
        with pytest.raises(UsageError):
            restore(Reader(store, manifest), program.variables)
        assert not program.optimizer.state


# --- nothing is left ---


def test_the_next_use_after_all_is_read_takes_the_hooks_away(store: Store) -> None:
    program = Program()
    manifest, _ = program.save(store)
    for use in (
        lambda restored: [program.model(IMAGES[:4]) for _ in range(2)],
        lambda restored: program.optimizer.step(),
        lambda restored: restored.wait(),
    ):
        restored = restore(Reader(store, manifest), program.variables)
        restored._residence.join()
        assert restored.is_checked
        use(restored)
        assert not hooks()


def test_nothing_is_left_of_what_is_deleted(store: Store) -> None:
    program = Program()
    manifest, _ = program.save(store)
    spoil(store, manifest, "model.0.weight")
    restored = restore(Reader(store, manifest), program.variables)
    restored._residence.join()
    assert hooks()  # the damaged weight may still be used
    del program
    gc.collect()
    assert not hooks()


def test_numbers_of_hooks_are_as_without_us(store: Store) -> None:
    program = Program()
    manifest, _ = program.save(store)
    before = nn.Linear(1, 1).register_forward_hook(print).id
    restore(Reader(store, manifest), program.variables).wait()
    assert nn.Linear(1, 1).register_forward_hook(print).id == before + 1


def test_what_is_compiled_is_read_before_it_is_called(store: Store) -> None:
    program = Program()
    manifest, _ = program.save(store)
    program.model.compile(backend="eager")
    restored = restore(Reader(store, manifest), program.variables)
    assert restored.is_checked
    assert not hooks()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("lazy", [False, True])
def test_training_goes_on_bit_for_bit_on_a_gpu(store: Store, lazy: bool) -> None:
    program = Program()
    program.model.cuda()
    images, labels = IMAGES[:32].cuda(), LABELS[:32].cuda()

    def train() -> list[float]:
        losses = []
        for step in range(3):
            torch.manual_seed(step)
            program.optimizer.zero_grad()
            loss = F.cross_entropy(program.model(images), labels)
            loss.backward()
            program.optimizer.step()
            losses.append(float(loss))
        return losses

    train()
    found = named(program.variables)
    manifest = save_tensors(store, {k: t.detach().cpu() for k, t in found.items()})
    expected = train()
    weight = program.model[0].weight
    address = weight.data_ptr()
    restore(Reader(store, manifest), program.variables, lazy=lazy).wait()
    assert weight.data_ptr() == address
    assert train() == expected
