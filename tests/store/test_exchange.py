"""Exporting to other formats, and importing from them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import saving
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp

from gpurescue.errors import Damaged, UsageError
from gpurescue.store.exporting import FORMATS, Target, export
from gpurescue.store.format import DTYPES
from gpurescue.store.importing import import_
from gpurescue.store.plans import Contents
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:ComplexHalf support"),
    pytest.mark.filterwarnings("ignore:torch.distributed is"),  # of dcp.load
]
UNKNOWN = {"complex32", "complex128"}  # to safetensors
RUN = "fedcba9876543210"


def of_every_dtype(unknown: set[str]) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    found = {}
    for name, size in DTYPES.items():
        if name not in unknown:
            raw = torch.randint(0, 256, (24 * size,), dtype=torch.uint8, generator=draw)
            raw = raw % 2 if name == "bool" else raw
            found[f"of.{name}"] = raw.view(getattr(torch, name)).reshape(4, 6)
    return found


def of_every_shape() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    large = torch.arange(60_000.0)
    return {
        "model.base": base,
        "model.view": base[1:, ::2],
        "model.turned": base.t(),
        "model.tied": base,
        "model.first": large[:100],
        "model.last": large[59_000:],
        "model.repeated": torch.tensor([5.0]).expand(3, 4),
        "flag": torch.tensor(True),
        "scalar": torch.tensor(-0.0),
        "not a number": torch.tensor([float("nan")]),
        "empty": torch.empty(0, 3),
        "nothing": torch.empty(0, dtype=torch.int64),
        "large": torch.randn(300, 1000),
    }


def bits(tensor: torch.Tensor) -> bytes:
    made = tensor.detach().contiguous().clone()
    return saving.raw_bytes(made.untyped_storage())[: made.nbytes]


def assert_same(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    assert found.dtype == expected.dtype, name
    assert found.shape == expected.shape, name
    assert bits(found) == bits(expected), name


def exported(store: Store, id: str, path: Path, form: str, **more) -> list[str]:
    return export(store, id, Target(path=path, format=form, **more))


def loaded(store: Store, manifest) -> dict[str, torch.Tensor]:
    reader = Reader(store, manifest)
    return {name: reader.tensor(name) for name in manifest.tensors}


def read_by_its_library(path: Path, form: str, names: dict[str, torch.Tensor]):
    if form == "torch":
        return torch.load(path, weights_only=True)
    if form == "safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    found = {name: torch.empty_like(t) for name, t in names.items()}
    dcp.load(found, checkpoint_id=path, no_dist=True)
    return found


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- there and back


@pytest.mark.parametrize("form", FORMATS)
def test_every_dtype_is_exported_and_imported_to_the_bit(store, tmp_path, form):
    tensors = of_every_dtype(UNKNOWN if form == "safetensors" else set())
    made = saving.save_tensors(store, tensors)
    assert exported(store, made.id, tmp_path / "x", form) == list(tensors)
    outside = read_by_its_library(tmp_path / "x", form, tensors)
    back = loaded(store, import_(store, tmp_path / "x", run=RUN))
    assert outside.keys() == back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same(outside[name], tensor, name)
        assert_same(back[name], tensor, name)
    assert not store.verify()


@pytest.mark.parametrize("form", FORMATS)
def test_every_shape_is_exported_and_imported_to_the_bit(store, tmp_path, form):
    tensors = of_every_shape()
    made = saving.save_tensors(store, tensors)
    exported(store, made.id, tmp_path / "x", form)
    outside = read_by_its_library(tmp_path / "x", form, tensors)
    imported = import_(store, tmp_path / "x", run=RUN)
    back = loaded(store, imported)
    assert back.keys() == tensors.keys()
    left_out = {"model.tied"} if form == "safetensors" else set()
    assert outside.keys() == tensors.keys() - left_out
    for name, tensor in tensors.items():
        assert_same(back[name], tensor, name)
        if name in outside:
            assert_same(outside[name], tensor, name)
    assert imported.run == RUN
    assert imported.notes["imported"] == "x"
    assert not store.verify()


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_tied_tensors_stay_tied(store, tmp_path, form):
    tensors = of_every_shape()
    made = saving.save_tensors(store, tensors)
    exported(store, made.id, tmp_path / "x", form)
    back = loaded(store, import_(store, tmp_path / "x", run=RUN))
    back["model.tied"].fill_(7.0)
    assert back["model.base"].eq(7.0).all()
    assert back["model.view"].eq(7.0).all() == (form == "torch")


@pytest.mark.parametrize("dtype", sorted(UNKNOWN))
def test_a_dtype_that_safetensors_does_not_know_is_refused(store, tmp_path, dtype):
    tensors = {"a": torch.ones(2), "odd": torch.ones(2, dtype=getattr(torch, dtype))}
    made = saving.save_tensors(store, tensors)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=rf"odd is of torch.{dtype}, .* torch or dcp"):
        exported(store, made.id, tmp_path / "x.safetensors", "safetensors")
    assert files(tmp_path) == before


def tied_model() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 5))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_loads_what_was_exported_of_it(store, tmp_path, form):
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    state = {f"model.{name}": t for name, t in model.state_dict().items()}
    made = saving.save_tensors(
        store, {**state, "opt.model.0.weight.exp_avg": state["model.0.weight"] * 2}
    )
    path = tmp_path / "model"
    assert exported(store, made.id, path, form, prefix="model") == list(
        model.state_dict()
    )
    fresh = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    found = read_by_its_library(path, form, fresh.state_dict())
    fresh.load_state_dict(found)
    for name, tensor in model.state_dict().items():
        assert_same(fresh.state_dict()[name], tensor, name)


def test_safetensors_loads_a_tied_model(store, tmp_path):
    from safetensors.torch import load_model

    model, fresh = tied_model(), tied_model()
    state = {f"model.{name}": t for name, t in model.state_dict().items()}
    made = saving.save_tensors(store, state)
    exported(store, made.id, tmp_path / "x", "safetensors", prefix="model")
    assert load_model(fresh, tmp_path / "x") == (set(), [])
    assert_same(fresh[1].weight, model[1].weight, "weight")


def test_dcp_loads_what_was_exported_into_nested_states(store, tmp_path):
    model = torch.nn.Linear(3, 2)
    state = {f"model.{name}": t for name, t in model.state_dict().items()}
    made = saving.save_tensors(store, state)
    exported(store, made.id, tmp_path / "x", "dcp")
    fresh = torch.nn.Linear(3, 2)
    nested = {"model": fresh.state_dict()}
    dcp.load(nested, checkpoint_id=tmp_path / "x", no_dist=True)
    assert_same(fresh.weight, model.weight, "weight")


def test_a_nested_state_of_torch_is_imported(store, tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "opt": optimizer.state_dict(), "epoch": 3}
    torch.save({**state, "name": "run", "size": torch.Size([2])}, tmp_path / "x.pt")
    made = import_(store, tmp_path / "x.pt", run=RUN, prefix="old")
    found = loaded(store, made)
    assert_same(found["old.model.weight"], model.weight, "weight")
    state = optimizer.state[model.weight]
    assert_same(found["old.opt.state.0.exp_avg"], state["exp_avg"], "exp_avg")
    assert made.notes["values"]["old.epoch"] == 3
    assert made.notes["values"]["old.opt.param_groups.0.lr"] == 0.01
    assert made.notes["values"]["old.size.0"] == 2


def test_what_is_there_already_is_not_written_again(store, tmp_path):
    tensors = of_every_shape()
    torch.save(tensors, tmp_path / "x.pt")
    first = import_(store, tmp_path / "x.pt", run=RUN)
    torch.save({"new": torch.ones(40_000), **tensors}, tmp_path / "x.pt")
    second = import_(store, tmp_path / "x.pt", run=RUN)
    assert {c.pack for c in first.chunks} & {c.pack for c in second.chunks}
    for name, tensor in loaded(store, second).items():
        assert_same(tensor, {"new": torch.ones(40_000), **tensors}[name], name)
    assert import_(store, tmp_path / "x.pt", run=RUN).chunks == second.chunks
    assert not store.verify()


def test_many_small_tensors_lie_in_few_chunks(store, tmp_path):
    torch.save({f"t{n}": torch.full((n % 40,), n) for n in range(5000)}, tmp_path / "x")
    made = import_(store, tmp_path / "x", run=RUN)
    assert len(made.chunks) < 5
    for number in (0, 39, 4999):
        found = Reader(store, made).tensor(f"t{number}")
        assert found.eq(number).all()
        assert len(found) == number % 40


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 63, 64, 65, 4096, 65_535, 65_536, 70_001])))
def test_memory_of_any_sizes_is_laid_out(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("sizes")
    store = Store(folder / "store", create=True)
    draw = torch.Generator().manual_seed(len(sizes))
    tensors = {
        str(n): torch.randint(0, 255, (size,), dtype=torch.uint8, generator=draw)
        for n, size in enumerate([*sizes, 3])
    }
    for chosen in (list(tensors)[::2], list(tensors)):  # some are there already
        torch.save({name: tensors[name] for name in chosen}, folder / "x")
        made = import_(store, folder / "x", run=RUN)
        for name, tensor in loaded(store, made).items():
            assert_same(tensor, tensors[name], name)


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
)
mesh = init_device_mesh("cpu", (2,))
whole = torch.arange(35.0).reshape(7, 5)
state = {
    "rows": distribute_tensor(whole, mesh, [Shard(0)]),
    "columns": distribute_tensor(whole.bfloat16(), mesh, [Shard(1)]),
    "same": distribute_tensor(whole, mesh, [Replicate()]),
    "step": 3,
}
dcp.save(state, checkpoint_id=f"{folder}/x")
dist.destroy_process_group()
"""


def test_a_folder_that_two_ranks_wrote_is_imported(store, tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, "-c", SHARDED, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    made = import_(store, tmp_path / "x", run=RUN)
    found, whole = loaded(store, made), torch.arange(35.0).reshape(7, 5)
    assert_same(found["rows"], whole, "rows")
    assert_same(found["columns"], whole.bfloat16(), "columns")
    assert_same(found["same"], whole, "same")
    assert made.notes["values"] == {"step": 3}


# -- what goes wrong


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_checkpoint_is_not_exported(store, tmp_path, form):
    tensors = {"a": torch.ones(9000), "b": torch.zeros(9000)}
    made = saving.save_tensors(store, tensors)
    chunk = made.chunks[made.storages[made.tensors["b"].storage].chunk]
    with (store.path / "packs" / f"{chunk.pack}.pack").open("r+b") as file:
        file.seek(chunk.offset + 5)
        file.write(b"\xff")
    before = files(tmp_path)
    with pytest.raises(Damaged, match=r"^b: bytes"):
        exported(store, made.id, tmp_path / "x", form)
    assert files(tmp_path) == before
    assert exported(
        store, saving.save_tensors(store, {"c": torch.ones(2)}).id, tmp_path / "x", form
    )


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_overwritten_unless_asked_for(store, tmp_path, form):
    old = saving.save_tensors(store, {"x": torch.zeros(3)})
    new = saving.save_tensors(store, {"x": torch.ones(3)})
    path = tmp_path / "x"
    exported(store, old.id, path, form)
    with pytest.raises(UsageError, match="is there already"):
        exported(store, new.id, path, form)
    assert loaded(store, import_(store, path, run=RUN))["x"].eq(0).all()
    before = files(tmp_path)
    exported(store, new.id, path, form, overwrite=True)
    assert loaded(store, import_(store, path, run=RUN))["x"].eq(1).all()
    assert [n for n in files(tmp_path) if not n.startswith("store")] == [
        n for n in before if not n.startswith("store")
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_of_something_else_is_never_replaced(store, tmp_path, form):
    made = saving.save_tensors(store, {"x": torch.zeros(3)})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="folder of something else"):
        exported(store, made.id, tmp_path / "mine", form, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_that_is_not_there_is_not_made(store, tmp_path, form):
    made = saving.save_tensors(store, {"x": torch.zeros(3)})
    with pytest.raises(UsageError, match=r"There is no folder .*none"):
        exported(store, made.id, tmp_path / "none" / "x", form)
    assert not (tmp_path / "none").exists()


FULL = """
import resource, sys
from pathlib import Path
from gpurescue.errors import NotWritten
from gpurescue.store.exporting import Target, export
from gpurescue.store.store import Store
store, path = Store(sys.argv[1]), Path(sys.argv[2])
(row,) = store.rows()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    export(store, row.id, Target(path=path, format=sys.argv[3]))
except NotWritten as error:
    print(error)
"""


@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_that_takes_no_more_leaves_nothing_behind(store, tmp_path, form):
    saving.save_tensors(store, {"x": torch.randn(200_000)})
    before = files(tmp_path)
    command = [sys.executable, "-c", FULL, str(store.path), str(tmp_path / "x"), form]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "could not be written" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert files(tmp_path) == before


def test_a_shard_is_not_exported_as_if_it_were_whole(store, tmp_path):
    import msgspec

    made = saving.save_tensors(store, {"a.x": torch.ones(2, 3), "b.x": torch.ones(4)})
    shard = msgspec.structs.replace(made.tensors["a.x"], whole=(4, 3), start=(2, 0))
    key = [(chunk.digest, chunk.nbytes) for chunk in made.chunks]
    with store.plan(key) as plan:
        contents = Contents(
            run=RUN, storages=made.storages, tensors={**made.tensors, "a.x": shard}
        )
        sharded = store.publish(plan, [], contents)
    with pytest.raises(UsageError, match=r"a.x is a shard .*\(4, 3\)"):
        exported(store, sharded.id, tmp_path / "x", "torch")
    assert exported(store, sharded.id, tmp_path / "x", "torch", prefix="b") == ["x"]


def test_a_tensor_that_no_memory_could_hold_is_not_written_out(store, tmp_path):
    made = saving.save_tensors(store, {"x": torch.ones(1).expand(2**30, 2**10)})
    for form in ("safetensors", "dcp"):
        with pytest.raises(UsageError, match="x is 4 bytes that are looked at as"):
            exported(store, made.id, tmp_path / "x", form)
    exported(store, made.id, tmp_path / "x", "torch")
    back = loaded(store, import_(store, tmp_path / "x", run=RUN))["x"]
    assert back.shape == (2**30, 2**10)
    assert back[-1, -1] == 1


def test_names_that_are_not_there_are_said_to_be_missing(store, tmp_path):
    made = saving.save_tensors(
        store, {"model.x": torch.ones(2), "models.x": torch.ones(3)}
    )
    with pytest.raises(UsageError, match=r"under 'mode'. There are: model, models"):
        exported(store, made.id, tmp_path / "x", "torch", prefix="mode")
    with pytest.raises(UsageError, match="'zip' is no format"):
        exported(store, made.id, tmp_path / "x", "zip")
    assert exported(store, made.id, tmp_path / "x", "torch", prefix="model") == ["x"]


@pytest.mark.parametrize("form", FORMATS)
def test_progress_counts_what_is_read_and_written(store, tmp_path, form):
    tensors = {"a": torch.randn(100_000), "b": torch.randn(10)}
    nbytes = sum(t.nbytes for t in tensors.values())
    made = saving.save_tensors(store, tensors)
    said: list[int] = []
    export(store, made.id, Target(path=tmp_path / "x", format=form), said.append)
    assert min(said) >= 0
    assert 2 * nbytes <= sum(said) < 2 * nbytes + 20_000
    other, said = Store(tmp_path / "other", create=True), []
    import_(other, tmp_path / "x", run=RUN, progress=said.append)
    assert 2 * nbytes <= sum(said) < 2 * nbytes + 20_000
