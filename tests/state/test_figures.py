"""Figures of matplotlib: copies look the same, and go on by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from gpurescue.state import graph, rebuilding

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _agg():
    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def pixels(fig):
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba()).copy()


def again(roots):
    captured = graph.capture(roots)
    assert captured.lost == {}
    buffers = [bytearray(buffer.raw()) for buffer in captured.buffers]
    parts = rebuilding.Parts(lambda number: None, buffers, lambda name: None)
    return rebuilding.rebuild(captured.data, parts)


def draw(axes, step):
    axes[0].lines[0].set_data(range(step), np.sqrt(range(step)))
    axes[0].relim()
    axes[0].autoscale_view()
    axes[1].images[0].set_data(np.arange(9).reshape(3, 3) == step)
    axes[1].set_title(f"step {step}")


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_a_figure_goes_on_looking_the_same(layout):
    fig, axes = plt.subplots(1, 2, layout=layout)
    (line,) = axes[0].plot([], [], "o-", label="loss")
    axes[0].legend()
    axes[0].twinx().set_yscale("log")
    fig.colorbar(axes[1].imshow(np.zeros((3, 3)), vmax=1), ax=axes[1])
    draw(axes, 3)
    found = again({"fig": fig, "axes": axes, "line": line})
    assert np.array_equal(pixels(found["fig"]), pixels(fig))
    draw(axes, 5)
    draw(found["axes"], 5)
    assert np.array_equal(pixels(found["fig"]), pixels(fig))
    assert found["axes"][0].figure is found["fig"]
    assert found["axes"][0].lines[0] is found["line"]
    assert found["fig"].number in plt.get_fignums()
