"""DataLoaders that are left in one process, and gone on with in another."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys

import leaving
import pytest
import torch

from gpurescue.state.loaders import streams

Found = dict[str, list[str]]
ACTIONS = ("leave", "pass_on", "join")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """What came after a round of each program, and in its continuations."""
    folder = tmp_path_factory.mktemp("programs")
    results = []
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for action in ACTIONS:
        command = [sys.executable, leaving.__file__, action, str(folder)]
        subprocess.run(command, check=True, timeout=300, env=env)
        results.append(json.loads((folder / f"{action}.json").read_text()))
    left, passed, joined = results
    return left, {name: passed[name] + joined[name] for name in joined}


@pytest.mark.parametrize("name", leaving.PROGRAMS)
def test_a_loop_goes_on_in_another_process(
    found: tuple[Found, Found], name: str
) -> None:
    left, joined = (results[name] for results in found)
    assert joined == left
    assert len(left) > 2


@pytest.mark.parametrize(
    ("name", "why"),
    {
        "generator": "a generator cannot be copied",
        "rows, workers": "iterable-style, and workers",
        "out of order": "in_order=False",
        "user's generator": "a generator cannot be copied",
    }.items(),
)
def test_what_cannot_be_written_down_is_named(
    found: tuple[Found, Found], name: str, why: str
) -> None:
    left, joined = (results[name] for results in found)
    assert left[-1].startswith("loop.<iterator>")
    assert why in left[-1]
    assert "could not be kept" in joined[-1]


def test_a_sampler_that_would_give_other_indices_is_refused(
    found: tuple[Found, Found],
) -> None:
    _, joined = (results["shared stream"] for results in found)
    assert "CannotResume: Shared was asked again for the 5 indices" in joined[-1]


def test_a_generator_is_found_in_attributes_that_cannot_be_in_a_cycle() -> None:
    holder = torch.utils.data.RandomSampler(range(3), generator=torch.Generator())
    assert [stream.name for stream in streams.streams(holder)][-1] == "Generator 0"
    assert not gc.is_tracked(vars(holder))  # asked for only now
    assert [stream.name for stream in streams.streams(holder)][-1] == "Generator 0"
