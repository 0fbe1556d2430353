"""CUDA streams and events in another program."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.state import graph, queues, rebuilding  # noqa: E402


def again(roots):
    captured = graph.capture(roots)
    parts = rebuilding.Parts(lambda number: None, [], lambda name: None)
    return rebuilding.rebuild(captured.data, parts), captured.lost


on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@on_device
def test_streams_are_new_ones_of_the_same_kind():
    low, high = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    with torch.cuda.stream(high):
        roots = {"low": low, "high": high, "same": torch.cuda.current_stream()}
    found, lost = again({**roots, "default": torch.cuda.default_stream()})
    assert lost == {}
    assert found["high"].priority == high.priority
    assert found["same"] == found["high"] != found["low"]
    assert found["default"] == torch.cuda.default_stream()
    with torch.cuda.stream(found["low"]):
        x = torch.ones(4, device="cuda") * 2
    found["low"].synchronize()
    assert x.tolist() == [2.0] * 4


@pytest.mark.gpu
@on_device
@pytest.mark.parametrize("has_timing", [True, False])
def test_events_are_new_ones_of_the_same_kind(has_timing):
    recorded = torch.cuda.Event(enable_timing=has_timing)
    recorded.record()
    fresh = torch.cuda.Event(enable_timing=has_timing)
    found, lost = again({"recorded": recorded, "fresh": fresh})
    assert lost == {}
    found["fresh"].record()
    torch.cuda.synchronize()
    assert found["recorded"].query()
    if has_timing:
        assert found["recorded"].elapsed_time(found["fresh"]) >= 0
    else:
        with pytest.raises((RuntimeError, ValueError)):
            found["recorded"].elapsed_time(found["fresh"])


@pytest.mark.gpu
@on_device
def test_a_captured_graph_is_named():
    found, lost = again({"graph": torch.cuda.CUDAGraph(), "n": 3})
    assert lost == {"graph": "CUDAGraph: what it has captured is gone with its process"}
    assert found["n"] == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_they_say_so_when_they_are_used():
    made = [queues.stream(queues.Queue(0, -1)), queues.event(True, 0)]
    for lost in made:
        with pytest.raises(CannotResume, match="needs a device that is not here"):
            lost()
