"""Which errors make a device unusable for the process."""

from __future__ import annotations

import pytest

from gpurescue.state import poison

torch = pytest.importorskip("torch")

LOST = [
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be ...",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: the launch timed out and was terminated",
    "Unable to determine the device handle for GPU: CUDA device is lost",
]
GOES_ON = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: invalid device ordinal",
    "CUDA error: out of memory",
    "an illegal memory access of another kind",
    "shapes cannot be multiplied (3x4 and 5x6)",
]


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
@pytest.mark.parametrize("text", LOST)
def test_what_poisons(kind, text):
    assert poison.of(kind(text)) == text.partition("\n")[0]


@pytest.mark.parametrize("text", GOES_ON)
def test_what_does_not(text):
    assert not poison.of(RuntimeError(text))


def test_only_errors_of_the_runtime_count():
    assert not poison.of(ValueError(LOST[0]))


def test_the_code_of_an_error_counts():
    error = torch.AcceleratorError("CUDA error: something new")
    error.error_code = 710
    assert poison.of(error)


def test_what_it_was_raised_from_counts():
    error = ValueError("the metric could not be computed")
    error.__cause__ = RuntimeError(LOST[1])
    assert poison.of(error)


def test_a_circle_of_causes_ends():
    one, two = RuntimeError("a"), RuntimeError("b")
    one.__context__, two.__context__ = two, one
    assert not poison.of(one)
