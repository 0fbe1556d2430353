"""Loops over DataLoaders that are left in one process and gone on with in another.

Run as a script, with what to do, and a folder: ``leave`` runs every program to its end,
writes down where it stands at one round, and what came after it; ``pass_on`` goes on
from there in another process for a round, and writes down where it stands then;
``join`` goes on in a third one, and writes down what came.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import pickle
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)
from tqdm import tqdm

from gpurescue.state import capture
from gpurescue.state.iterators import Loop
from gpurescue.state.loaders import watching
from gpurescue.state.rebuilding import Parts
from gpurescue.store.format import DTYPES

quiet = io.StringIO()
NUM_EPOCHS = 3
SIZE = 45


class Numbers(Dataset):
    """Draws from all streams for every sample."""

    def __init__(self) -> None:
        self.python, self.other = random.Random(3), random.Random(4)
        self.numpy, self.torch = np.random.default_rng(3), torch.Generator()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        own = [self.python.gauss(0, 1), self.other.random(), self.numpy.random()]
        return torch.tensor(
            [index, *drawn, *own, torch.rand((), generator=self.torch).item()],
            dtype=torch.float64,
        )


class Plain(Numbers):
    def __init__(self) -> None:
        pass

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index], dtype=torch.float64)


class Own:
    """A sampler with a generator of its own, drawn from for every index."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(8)

    def __iter__(self) -> Iterator[int]:
        for _ in range(SIZE):
            yield int(self.generator.integers(SIZE))

    def __len__(self) -> int:
        return SIZE


class Counting(Own):
    """Its order follows from how many epochs it has begun."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(SIZE, generator=generator).tolist())


class Eager(Own):
    """Gives batches, and draws when its iterator is made."""

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(SIZE).tolist()
        return iter([order[at : at + 4] for at in range(0, SIZE, 4)])


class Shared(Own):
    """Draws from the stream that training draws from, too."""

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        for _ in range(SIZE):
            yield int(torch.randint(SIZE, ()))


class Rows(IterableDataset):
    def __init__(self, *, is_generator: bool = False) -> None:
        self.is_generator = is_generator

    def __iter__(self) -> Iterator[Any]:
        rows = map(float, range(SIZE))
        return (x for x in rows) if self.is_generator else rows


def shuffled(**options: Any) -> DataLoader[Any]:
    return DataLoader(Numbers(), batch_size=4, **{"shuffle": True, **options})


def generated(**options: Any) -> DataLoader[Any]:
    return shuffled(generator=torch.Generator().manual_seed(2), **options)


def sampled(sampler: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(Numbers(), batch_size=4, sampler=sampler, **options)


def weighted(**options: Any) -> DataLoader[Any]:
    return sampled(WeightedRandomSampler([1.0, 2.0, 3.0] * 15, 30), **options)


def drawing_on(**options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(4)
    sampler = RandomSampler(range(SIZE), True, 70, generator)
    return sampled(sampler, **options)


def batched(**options: Any) -> DataLoader[Any]:
    return DataLoader(Numbers(), batch_sampler=Eager(), **options)


def rows(**options: Any) -> DataLoader[Any]:
    return DataLoader(Rows(**options), batch_size=4)


@dataclass(frozen=True)
class Program:
    make: Callable[..., Any]
    loop: Callable[[Any], Any] = iter
    at: tuple[int, int] = (1, 5)  # epoch, and how many batches were given in it
    options: tuple[tuple[str, Any], ...] = ()
    noise: bool = True

    def loader(self) -> Any:
        return self.make(**dict(self.options))


TWO = (("num_workers", 2),)
KEPT = (*TWO, ("persistent_workers", True))
PROGRAMS = {
    "shuffled": Program(shuffled),
    "at the first batch": Program(shuffled, at=(0, 1)),
    "at the last batch": Program(shuffled, at=(1, 12)),
    "in order": Program(shuffled, options=(("shuffle", False),)),
    "plain": Program(lambda: DataLoader(Plain(), shuffle=True)),
    "no batches": Program(lambda: DataLoader(Numbers(), None, shuffle=True)),
    "own generator": Program(generated),
    "own generator, last batch": Program(generated, at=(1, 12)),
    "own sampler": Program(lambda: sampled(Own())),
    "counting sampler": Program(lambda: sampled(Counting())),
    "weighted": Program(weighted),
    "with replacement": Program(drawing_on),
    "batch sampler": Program(batched),
    "rows": Program(rows),
    "enumerate": Program(shuffled, lambda x: enumerate(x, 3)),
    "zip": Program(shuffled, lambda x: zip(range(100), x, strict=False)),
    "map": Program(shuffled, lambda x: map(torch.neg, x)),
    "islice": Program(shuffled, lambda x: itertools.islice(x, 1, 9, 2), at=(1, 3)),
    "chain": Program(shuffled, lambda x: itertools.chain(x, x), at=(1, 17)),
    "cycle": Program(
        shuffled, lambda x: itertools.islice(itertools.cycle(x), 30), at=(1, 20)
    ),
    "cycle, first time": Program(
        shuffled, lambda x: itertools.islice(itertools.cycle(x), 30)
    ),
    "tqdm": Program(shuffled, lambda x: tqdm(x, disable=True)),
    "tqdm that is seen": Program(shuffled, lambda x: enumerate(tqdm(x, file=quiet))),
    "tqdm around": Program(shuffled, lambda x: tqdm(enumerate(x), file=quiet)),
    "workers": Program(shuffled, options=TWO),
    "workers, first batch": Program(shuffled, at=(0, 1), options=TWO),
    "workers, second batch": Program(shuffled, at=(0, 2), options=TWO),
    "workers, last batch": Program(shuffled, at=(1, 12), options=TWO),
    "workers, three": Program(shuffled, at=(1, 7), options=(("num_workers", 3),)),
    "workers, own generator": Program(generated, options=TWO),
    "workers, generator's end": Program(generated, at=(1, 11), options=TWO),
    "workers, own sampler": Program(
        lambda **options: sampled(Own(), **options), options=TWO
    ),
    "workers, counting sampler": Program(
        lambda **options: sampled(Counting(), **options), options=TWO
    ),
    "workers, batch sampler": Program(batched, options=TWO),
    "workers, in enumerate": Program(shuffled, enumerate, options=TWO),
    "workers, ahead": Program(shuffled, options=(*TWO, ("prefetch_factor", 4))),
    "workers, barely ahead": Program(shuffled, options=(*TWO, ("prefetch_factor", 1))),
    "workers that stay": Program(shuffled, options=KEPT),
    "workers that stay, first epoch": Program(shuffled, at=(0, 3), options=KEPT),
    "workers that stay, last batch": Program(shuffled, at=(1, 12), options=KEPT),
}
REFUSED = {
    "generator": Program(lambda: rows(is_generator=True)),
    "rows, workers": Program(lambda: DataLoader(Rows(), 4, num_workers=2)),
    "out of order": Program(shuffled, options=(*TWO, ("in_order", False))),
    "user's generator": Program(shuffled, lambda x: (batch for batch in x)),
}
INEXACT = {"shared stream": Program(lambda: sampled(Shared()))}


# -- running them


def seed() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)


class Rest:
    """What came after a round."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, item: Any) -> None:
        """One round: training draws from all streams, too."""
        drawn = [torch.rand(()).item(), random.random(), np.random.rand()]
        self.seen.append(f"{flat(item)} {drawn}")

    def end(self, names: dict[str, Any]) -> list[str]:
        generator = names["loader"].generator
        own = generator.get_state().sum().item() if generator is not None else 0
        return [*self.seen, f"{capture.read_streams()!r} {own}"]


def flat(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return item.tolist()
    return [flat(x) for x in item] if isinstance(item, list | tuple) else item


def run(names: Any, program: Program, epoch: int, loop: Any, note: Any) -> None:
    for item in loop:
        note(item)
    for _ in range(epoch + 1, NUM_EPOCHS):
        for item in program.loop(names["loader"]):
            note(item)


def leave(program: Program, path: Path) -> list[str]:
    seed()
    names = {"loader": program.loader()}
    epoch, number = program.at
    ignored = Rest()
    for _ in range(epoch):
        for item in program.loop(names["loader"]):
            ignored.note(item)
    loop = iter(program.loop(names["loader"]))
    for _ in range(number):
        ignored.note(next(loop))
    lost = write({"names": names, "loop": Loop(loop)}, path)
    rest = Rest()
    run(names, program, epoch, loop, rest.note)
    return [*rest.end(names), *(f"{k}: {v}" for k, v in lost.items())]


def write(roots: dict[str, Any], path: Path) -> dict[str, str]:
    found = capture.capture(roots, DTYPES)
    pieces = {
        "storages": [bytes(s.tolist()) for s in found.storages],
        "buffers": [bytes(b.raw()) for b in found.buffers],
        "objects": found.objects,
        "streams": found.streams,
        "tensors": {name: tensor.tolist() for name, tensor in found.tensors.items()},
    }
    path.write_bytes(pickle.dumps(pieces))
    return found.lost


def read(path: Path) -> dict[str, Any]:
    pieces = pickle.loads(path.read_bytes())
    storages = [
        torch.frombuffer(bytearray(s), dtype=torch.uint8).untyped_storage()
        for s in pieces["storages"]
    ]
    buffers = [bytearray(b) for b in pieces["buffers"]]
    tensors = {n: torch.tensor(x).double() for n, x in pieces["tensors"].items()}
    parts = Parts(storages.__getitem__, buffers, tensors.__getitem__)
    torch.rand(3)  # streams stand elsewhere
    return capture.rebuilt(pieces["objects"], pieces["streams"], parts)


def pass_on(program: Program, path: Path) -> list[str]:
    found, rest = read(path), Rest()
    with contextlib.suppress(StopIteration):
        rest.note(next(found["loop"].iterator))
    lost = write(found, path)
    return [*rest.seen, *(f"{k}: {v}" for k, v in lost.items())]


def join(program: Program, path: Path) -> list[str]:
    found, rest = read(path), Rest()
    run(found["names"], program, program.at[0], found["loop"].iterator, rest.note)
    return rest.end(found["names"])


def main(action: Callable[[Program, Path], list[str]], folder: Path) -> None:
    found = {}
    for name, program in (PROGRAMS | REFUSED | INEXACT).items():
        try:
            with watching.watched():
                found[name] = action(program, folder / name)
        except Exception:  # told by the test of this program
            found[name] = [traceback.format_exc()]
    (folder / f"{action.__name__}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "This DataLoader will create 3 worker")
    import leaving  # pickled by this name, and not as __main__

    leaving.main(getattr(leaving, sys.argv[1]), Path(sys.argv[2]))
