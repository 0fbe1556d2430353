"""A hash that a device and the host take alike, and that sees every change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurescue.store import hashing
from gpurescue.store.hashing import ROW, fastest, hash_on_device, mark_of

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
BLOCKS = (32 * ROW, 64 * ROW, 1024 * ROW)
MIB = 2**20

# Around every limit: rows, what is gathered, what is hashed where it is.
SIZES = st.one_of(
    st.integers(0, 3 * ROW + 1),
    st.sampled_from([31 * ROW, 32 * ROW, 33 * ROW - 1, MIB, MIB + 1]),
    st.sampled_from([4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 4 * MIB + 33 * ROW + 5]),
)


def filled(nbytes: int, seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(-128, 128, nbytes, np.int8)
    return torch.from_numpy(values)


def marks_on(device: str, tensors: list[torch.Tensor], block: int) -> list[str]:
    hashed = hash_on_device([t.to(device) for t in tensors], block)
    return hashed.marks(hashed.rows.cpu())


def mark(tensor: torch.Tensor) -> str:
    return mark_of(tensor.numpy())


@pytest.mark.parametrize("device", DEVICES)
@given(sizes=st.lists(SIZES, min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_however_it_is_cut_it_is_the_hash_of_the_host(device, sizes, seed) -> None:
    tensors = [filled(size, seed + n) for n, size in enumerate(sizes)]
    expected = [mark(tensor) for tensor in tensors]
    for block in BLOCKS:
        assert marks_on(device, tensors, block) == expected


@given(
    nbytes=st.integers(1, 5 * ROW),
    bit=st.integers(0, 2**40),
    kind=st.sampled_from(["random", "zeros", "ones"]),
)
@settings(max_examples=60, deadline=None)
def test_every_bit_counts(nbytes, bit, kind) -> None:
    tensor = {
        "random": filled(nbytes, 0),
        "zeros": torch.zeros(nbytes, dtype=torch.int8),
        "ones": torch.full((nbytes,), -1, dtype=torch.int8),
    }[kind]
    before = mark(tensor)
    place = bit % (8 * nbytes)
    flipped = tensor.numpy().view(np.uint8)
    flipped[place // 8] ^= 1 << place % 8
    assert mark(tensor) != before
    flipped[place // 8] ^= 1 << place % 8
    assert mark(tensor) == before


@given(data=st.data(), width=st.sampled_from([1, 4, 8, ROW]))
@settings(max_examples=60, deadline=None)
def test_what_changes_places_is_seen(data, width) -> None:
    count = 4 * ROW // width
    values = filled(4 * ROW, 1).view(count, width)
    one, other = data.draw(
        st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True)
    )
    changed = values.clone()
    changed[one], changed[other] = values[other], values[one]
    is_equal = torch.equal(changed, values)
    assert (mark(changed.view(-1)) == mark(values.view(-1))) is is_equal


WRITES = {
    "signs": lambda x: x.neg_(),
    "two signs": lambda x: x[3:7001:6997].neg_(),
    "order": lambda x: x.copy_(x.flip(0)),
    "shift": lambda x: x.copy_(x.roll(1)),
    "scale": lambda x: x.mul_(2),
    "one ulp each": lambda x: x.view(torch.int64).add_(1),
    "zeros": lambda x: x.zero_(),
}


@pytest.mark.parametrize("form", WRITES)
def test_writes_that_sums_do_not_see_are_seen(form) -> None:
    values = torch.randn(20_000, dtype=torch.float64)
    before = mark(values.view(torch.int8))
    WRITES[form](values)
    assert mark(values.view(torch.int8)) != before


def test_zeros_of_another_number_are_others() -> None:
    sizes = [0, 1, 2, ROW - 1, ROW, ROW + 1, 32 * ROW, 5 * MIB, 5 * MIB + 1]
    found = [mark(torch.zeros(size, dtype=torch.int8)) for size in sizes]
    assert len(set(found)) == len(sizes)


@pytest.mark.parametrize("device", DEVICES)
def test_the_slow_product_is_the_same(device) -> None:
    """Where the fast one is missing or wrong it is used."""
    where = torch.device(device)
    rows = filled(300 * ROW, 2).view(-1, ROW)
    rows[0], rows[1] = -128, 127
    whole = rows.to(torch.int64) @ hashing._weights().t().to(torch.int64)
    for product in (hashing._exact(where), fastest(where)):
        found = torch.empty((300, hashing.WIDTH), dtype=torch.int32, device=where)
        with torch.autocast(device, dtype=torch.bfloat16):
            product(rows.to(where), found)
        assert torch.equal(found.cpu().to(torch.int64), whole)


def test_a_fast_product_that_is_not_exact_is_not_used(monkeypatch) -> None:
    def saturating(device):
        exact = hashing._exact(device)

        def product(rows, to) -> None:
            exact(rows, to)
            to.clamp_(-(2**20), 2**20)

        return product

    def missing(device):
        raise RuntimeError("not implemented")

    def particular(device):
        exact = hashing._exact(device)

        def product(rows, to) -> None:
            if len(rows) > 100:
                raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
            exact(rows, to)

        return product

    monkeypatch.setattr(hashing, "_MOST", 100)
    data = filled(MIB, 3)
    expected = mark(data)
    used = []
    for fast in (saturating, missing, particular):
        monkeypatch.setattr(hashing, "_fast", fast)
        fastest.cache_clear()
        used.append(fastest(CPU).__qualname__.partition(".")[0])
        assert mark(data) == expected
    fastest.cache_clear()
    assert used == ["_exact", "_exact", "_either"]


def test_columns_are_like_drawn_by_chance() -> None:
    """The bound on collisions needs that: near-equal columns would be one."""
    weights = hashing._weights().to(torch.float64)
    products = weights @ weights.t() / (weights.norm(dim=1) ** 2)
    products.fill_diagonal_(0)
    assert products.abs().max() < 5 / ROW**0.5
    assert weights.min() == -128
    assert weights.max() == 127
