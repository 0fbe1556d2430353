"""Values that were computed with gradients, in a graph of objects."""

from __future__ import annotations

import pytest

from gpurescue.errors import CannotResume
from gpurescue.state import graph, rebuilding

torch = pytest.importorskip("torch")


def again(**roots):
    found = graph.capture(roots)
    assert not found.lost
    storages = [storage.clone() for storage in found.storages]
    parts = rebuilding.Parts(
        storages.__getitem__, list(found.buffers), lambda name: None
    )
    return rebuilding.rebuild(found.data, parts)


@pytest.fixture
def loss():
    weight = torch.ones(3, requires_grad=True)
    return (weight * torch.tensor([1.0, 2.0, 3.0])).sum()


def test_it_looks_as_it_did(loss):
    found = again(loss=loss)["loss"]
    assert found.item() == loss.item()
    assert found.requires_grad
    assert not found.is_leaf


def test_a_backward_pass_that_comes_to_it_is_an_error(loss):
    found = again(loss=loss)["loss"]
    weight = torch.ones(2, requires_grad=True)
    total = found * 2 + weight.sum()
    with pytest.raises(CannotResume, match="before the run was brought back"):
        total.backward()


def test_a_new_graph_that_does_not_come_to_it_goes_on(loss):
    found = again(loss=loss)["loss"]
    weight = torch.ones(2, requires_grad=True)
    (weight.sum() * found.detach()).backward()
    assert weight.grad is not None


def test_it_can_be_written_to(loss):
    found = again(loss=loss)["loss"]
    found += 1
    assert found.item() == loss.item() + 1


def test_memory_that_it_shares_stays_shared():
    weight = torch.ones(2, 3, requires_grad=True)
    whole = weight * 2
    roots = again(whole=whole, part=whole.detach()[0])
    with torch.no_grad():
        roots["part"][1] = 9
    assert roots["whole"].tolist() == [[2.0, 9.0, 2.0], [2.0, 2.0, 2.0]]


def test_one_that_is_there_twice_is_one(loss):
    found = again(first=loss, second=loss)
    assert found["first"] is found["second"]


def test_only_what_a_backward_pass_is_to_come_through_is_awaited(loss):
    inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LSTM(3, 2))
    mean = inner(torch.ones(4, 2))[0].mean()
    total = mean + 1
    for value in (mean, total, loss):
        assert graph.capture({"value": [value]}).is_awaited
    mean.backward()
    loss.backward()
    for value in (mean, total, loss, mean.detach()):
        assert not graph.capture({"value": [value]}).is_awaited
