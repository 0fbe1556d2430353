from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpurescue.store.layout import LINE, PAGE, SMALL, lay_out


@given(st.lists(st.integers(0, 4 * SMALL), max_size=50))
def test_chunks_are_apart_and_aligned(sizes):
    layout = lay_out(sizes)
    assert layout.nbytes % PAGE == 0
    end = 0
    for offset, nbytes in sorted(zip(layout.offsets, sizes, strict=True)):
        assert offset % (PAGE if nbytes >= SMALL else LINE) == 0
        assert offset >= end or nbytes == 0
        end = max(end, offset + nbytes)
    assert end <= layout.nbytes < end + PAGE + LINE


def test_small_chunks_lie_close_together():
    assert lay_out([100] * 40_000).nbytes < 40_000 * 130
