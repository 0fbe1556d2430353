"""A DataLoader without workers that fails and is mended: the run ends as if never."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import Training, clean, resume, spoil  # noqa: E402

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.recovery.engine import Run, State  # noqa: E402
from gpurescue.recovery.plan import Action, Restart  # noqa: E402

PLAIN = "loader = DataLoader(Digits(), batch_size=8, shuffle=True)"
DRAWING = (
    "loader = DataLoader(Digits(lambda x: x * torch.rand(()) + random.random()"
    " + np.random.randn()), batch_size=8, shuffle=True)"
)


def check(
    make: str,
    bug: Callable[[Training], Callable[..., None]] = spoil,
    **options: Any,
) -> tuple[Training, Run]:
    """Fail, mend, resume; everything must be as in the run that never failed."""
    expected = clean(Training(make, **options))
    training = Training(make, **options)
    mend = bug(training)
    run = training.start()
    assert run.state is State.SUSPENDED, run.error
    num_before = len(training.seen)
    assert 0 < num_before < len(expected["batches"]) - 1
    mend()
    assert resume(run) is State.FINISHED, run.error or run.suspension
    assert training.end() == expected
    return training, run


# -- what stands between the loop and the loader ---------------------------------------

LOOPS = {
    "itself": ("loader", "batch"),
    "enumerate": ("enumerate(loader)", "batch[1]"),
    "zip, first": ("zip(loader, itertools.count())", "batch[0]"),
    "zip, last": ("zip(itertools.count(), loader)", "batch[1]"),
    "islice": ("itertools.islice(loader, 18)", "batch"),
    "chain": ("itertools.chain(loader, loader)", "batch"),
    "cycle": ("itertools.islice(itertools.cycle(loader), 30)", "batch"),
    "generator": ("through(loader)", "batch"),
    "own generator": ("halved(loader)", "batch"),
    "expression": ("((x / 2, y) for x, y in loader)", "batch"),
    "next": ("range(15) if (it := iter(loader)) else ()", "next(it)"),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("make", [PLAIN, DRAWING], ids=["plain", "drawing"])
def test_a_bad_sample_is_mended_behind_any_wrapper(name: str, make: str) -> None:
    loop, unpack = LOOPS[name]
    define = "def halved(items):\n    for x, y in items:\n        yield x / 2, y\n"
    check(make, loop=loop, unpack=unpack, define=define)


@pytest.mark.parametrize("module", ["std", "notebook", "auto"])
def test_a_progress_bar_goes_on(module: str) -> None:
    tqdm = pytest.importorskip("tqdm")
    if module == "notebook":
        pytest.importorskip("ipywidgets")
    define = f"import io, warnings\nfrom tqdm.{module} import tqdm\n"
    loop = "(bar := tqdm(loader, file=io.StringIO()))"
    if module == "notebook":
        loop = "(bar := tqdm(loader, display=False))"
    training, _ = check(PLAIN, define=define, loop=loop)
    bar = training.names["bar"]
    assert isinstance(bar, tqdm.std.tqdm)
    assert bar.n == len(training.names["loader"]) == 20


# -- what fails ------------------------------------------------------------------------


def test_a_function_of_the_users_is_held_inside() -> None:
    define = (
        "def gather(items):\n    xs, ys = zip(*items)\n{}"
        "    return torch.stack(xs), torch.tensor(ys)\n"
    )
    make = "loader = DataLoader(Digits(), 8, shuffle=True, collate_fn=gather)"
    expected = clean(Training(make, define=define.format("")))
    bug = "    if {} in [round(float(x.sum()), 3) for x in xs]: {}\n"
    training = Training(make)
    total = round(float(training.images[90].sum()), 3)
    training.book.cell(define.format(bug.format(total, "[].pop()")))
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert run.suspension.innermost.name == "gather"
    training.book.redefine(run, define.format(bug.format(total, "pass")))
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_a_method_of_the_users_dataset_is_held_inside() -> None:
    source = (
        "class Mine(Digits):\n    def __getitem__(self, index):\n        {}\n"
        "        return self.images[index] * torch.rand(()), self.labels[index]\n"
    )
    make = "loader = DataLoader(Mine(), batch_size=8, shuffle=True)"
    expected = clean(Training(make, define=source.format("pass")))
    training = Training(make, define=source.format("if index == 60: [].pop()"))
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert run.suspension.innermost.name == "Mine.__getitem__"
    training.book.redefine(run, source.format("pass"))
    assert resume(run) is State.FINISHED
    assert training.end() == expected


class Cropped:
    """A library's dataset: draws for each sample, and may fail behind that."""

    def __init__(self, images: Any, labels: Any, bad: int | None) -> None:
        self.samples = list(zip(images, labels, strict=True))
        self.bad = bad

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        image, label = self.samples[index]
        shift = int(torch.randint(0, 3, ())) + random.randrange(3)
        if index == self.bad:
            raise ValueError("cannot be cropped")
        return image.roll(shift), label


def test_a_dataset_of_a_library_draws_the_same_again() -> None:
    make = "loader = DataLoader(data, batch_size=8, shuffle=True)"
    plain, training = Training(make), Training(make)
    plain.names["data"] = Cropped(plain.images, plain.names["labels"], None)
    expected = clean(plain)
    data = Cropped(training.images, training.names["labels"], 77)
    training.names["data"] = data
    run = training.start()
    assert run.state is State.SUSPENDED
    assert "with the random numbers that they had" in str(run.plan(Restart()))
    data.bad = None
    assert resume(run) is State.FINISHED
    assert training.end() == expected


GENERATORS = {
    "numpy": ("np.random.default_rng(3)", "rng.normal()"),
    "old numpy": ("np.random.RandomState(3)", "rng.randn()"),
    "python": ("random.Random(3)", "rng.gauss(0, 1)"),
    "torch": ("torch.Generator().manual_seed(3)", "torch.rand((), generator=rng)"),
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("place", ["global", "attribute", "closure", "default"])
def test_a_generator_of_the_datasets_own_is_put_back(name: str, place: str) -> None:
    made, drawn = GENERATORS[name]
    define = {
        "global": f"rng = {made}\ndef change(x):\n    return x + {drawn}\n",
        "attribute": (
            f"class Change:\n    def __init__(self):\n        self.rng = {made}\n"
            f"    def __call__(self, x):\n        return x + {'self.' + drawn}\n"
            "change = Change()\n"
        )
        .replace("generator=rng", "generator=self.rng")
        .replace("self.torch", "torch"),
        "closure": f"def maker(rng):\n    return lambda x: x + {drawn}\n"
        f"change = maker({made})\n",
        "default": f"change = lambda x, rng={made}: x + {drawn}\n",
    }[place]
    make = "loader = DataLoader(Digits(change), batch_size=8, shuffle=True)"
    check(make, define=define)


def test_a_failure_inside_a_library_dataset() -> None:
    make = (
        "data = TensorDataset(torch.stack(images), torch.tensor(labels)[:num])\n"
        "loader = DataLoader(Subset(data, range(150)), batch_size=8, shuffle=True)"
    )
    plain = Training(make)
    plain.names["num"] = 160
    expected = clean(plain)
    training = Training(make)
    training.names["num"] = 160
    training.make += "\ndata.tensors = (data.tensors[0], data.tensors[1][:140])"
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert isinstance(run.suspension.error, IndexError)
    data = training.names["data"]
    data.tensors = (data.tensors[0], torch.tensor(training.names["labels"]))
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_a_collate_function_that_is_set_on_the_loader_is_used() -> None:
    make = "loader = DataLoader(Digits(), 8, shuffle=True, collate_fn=gather)"
    good = (
        "gather = lambda s: (torch.stack([x for x, _ in s]), "
        "torch.tensor([y for _, y in s]))\n"
    )
    bad = good.replace("lambda s:", "lambda s: [].pop() if s[0][1] == 7 else")
    expected = clean(Training(make, define=good))
    training = Training(make, define=bad)
    run = training.start()
    assert run.state is State.SUSPENDED
    training.book.cell(good + "loader.collate_fn = gather\n")
    state = resume(run)
    while state is State.SUSPENDED:  # the next epoch's is the new one already
        state = resume(run)
    assert training.end() == expected


def test_it_may_fail_again_and_again() -> None:
    training = Training(DRAWING)
    expected = clean(Training(DRAWING))
    mends = [spoil(training, index) for index in (20, 60, 61, 100)]
    run = training.start()
    num = 0
    while run.state is State.SUSPENDED and num < 20:
        if num % 2:
            mends.pop()()
        num += 1
        resume(run)
    assert run.state is State.FINISHED
    assert not mends
    assert training.end() == expected


def test_a_skipped_batch_is_left_out_and_nothing_else() -> None:
    training = Training(PLAIN, loop="through(loader)", epochs=1)
    expected = clean(Training(PLAIN, epochs=1))["batches"]
    spoil(training)
    run = training.start()
    num_before = len(training.seen)
    assert resume(run, action=Action.SKIP) is State.FINISHED
    assert training.seen[:num_before] == expected[:num_before]
    assert len(training.seen) == len(expected) - 1


def test_random_numbers_that_come_late_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    define = (
        "class Late:\n    left = 150\n    def __call__(self, x):\n"
        "        self.left -= 1\n"
        "        return x + (torch.rand(()) if self.left < 0 else 0)\n"
    )
    make = "loader = DataLoader(Digits(Late()), batch_size=8)"
    training = Training(make, define=define)
    mend = spoil(training, 155)
    run = training.start()
    mend()
    assert resume(run) is State.FINISHED
    assert "This batch draws random numbers" in caplog.text


# -- how the batches are made up -------------------------------------------------------

OPTIONS = {
    "no batches": "batch_size=None, shuffle=True",
    "drop last": "batch_size=7, shuffle=True, drop_last=True",
    "one by one": "shuffle=True",
    "own generator": "batch_size=8, shuffle=True, generator=torch.Generator()",
    "weighted": "batch_size=8, sampler=WeightedRandomSampler(weights, 150)",
    "replacement": "batch_size=8, sampler=RandomSampler(images, True, 150)",
    "subset": "batch_size=8, sampler=SubsetRandomSampler(range(20, 150))",
    "distributed": "batch_size=8, sampler=DistributedSampler(images, 2, 0)",
    "batch sampler": "batch_sampler=BatchSampler(RandomSampler(images), 9, False)",
    "list of batches": "batch_sampler=[[i, i + 1] for i in range(0, 150, 2)]",
    "own sampler": "batch_size=8, sampler=Mine()",
    "own iterator": "batch_size=8, sampler=MineToo()",
    "pinned": "batch_size=8, pin_memory=True",
}
SAMPLERS = """\
weights = [1 + i % 3 for i in range(160)]
class Mine:
    def __iter__(self):
        for i in range(150):
            yield (i * 7 + random.randrange(3)) % 160
    def __len__(self):
        return 150
class MineToo:
    def __iter__(self):
        return Steps()
    def __len__(self):
        return 150
class Steps:
    i = 0
    def __iter__(self):
        return self
    def __next__(self):
        self.i += 1
        if self.i > 150:
            raise StopIteration
        return (self.i * 7) % 160
"""


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize("name", OPTIONS)
def test_any_way_to_make_batches(name: str) -> None:
    make = f"loader = DataLoader(Digits(), {OPTIONS[name]})"
    unpack = "batch"
    if name == "no batches":
        unpack = "(batch[0][None], torch.tensor([batch[1]]))"
    options = {"define": SAMPLERS, "unpack": unpack}
    plain = Training(make, **options)
    clean(plain)
    order = plain.names["order"]
    late = next(i for i in order[60:] if order.index(i) >= 30)
    is_alone = name in ("no batches", "one by one")
    check(make, break_conversion if is_alone else partial(spoil, index=late), **options)


def break_conversion(training: Training) -> Callable[[], None]:
    """A sample that no batch of its own can be made of."""
    good = training.images[100]
    training.images[100] = Unfit()

    def mend() -> None:
        training.images[100] = good

    return mend


class Unfit(dict):
    """What ``default_convert`` and ``default_collate`` choke on."""

    def __iter__(self) -> Any:
        raise ValueError("unfit")

    def keys(self) -> Any:
        raise ValueError("unfit")


# -- samplers that fail ----------------------------------------------------------------


def test_a_sampler_of_the_users_is_held_inside() -> None:
    make = "loader = DataLoader(Digits(), batch_size=8, sampler=Mine())"
    expected = clean(Training(make, define=SAMPLERS))
    line = "            yield"
    source = SAMPLERS.replace(line, f"            if i == 70: {{}}\n{line}")
    training = Training(make, define=source.format("[].pop()"))
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert run.suspension.innermost.name == "Mine.__iter__"
    training.book.redefine(run, source.format("pass"))
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_a_sampler_that_gave_nothing_yet_begins_again() -> None:
    define = "weights = torch.ones(160)\n"
    make = (
        "loader = DataLoader(Digits(), 8, sampler=WeightedRandomSampler(weights, 150))"
    )
    expected = clean(Training(make, define=define))
    training = Training(make, define=define)
    training.make += "\nloader.sampler.weights[3] = -1"
    run = training.start()
    assert run.state is State.SUSPENDED
    assert "begins again: it had given nothing yet" in str(run.plan(Restart()))
    training.names["loader"].sampler.weights[3] = 1
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_a_sampler_that_has_ended_is_refused() -> None:
    training = Training("loader = DataLoader(Digits(), 8, sampler=Numbers())")
    training.names["Numbers"] = Numbers
    run = training.start()
    assert run.state is State.SUSPENDED
    with pytest.raises(CannotResume, match=r"BatchSampler over Numbers.*has ended"):
        run.plan(Restart())
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED


class Numbers:
    """A library's sampler."""

    def __iter__(self) -> Any:
        yield from range(70)
        raise OSError("the file with the order of samples ends here")

    def __len__(self) -> int:
        return 150


# -- making the iterator ---------------------------------------------------------------


class Drawn:
    """A library's sampler, which draws when it begins."""

    def __init__(self, *, is_ok: bool) -> None:
        self.is_ok = is_ok

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(150).reshape(15, 10).tolist()
        if not self.is_ok:
            raise OSError("no order")
        return iter(order)


def test_an_iterator_that_cannot_be_made_draws_nothing_twice() -> None:
    make = "loader = DataLoader(Digits(), batch_sampler=drawn)"
    plain, training = Training(make), Training(make)
    plain.names["drawn"] = Drawn(is_ok=True)
    expected = clean(plain)
    drawn = training.names["drawn"] = Drawn(is_ok=False)
    run = training.start()
    assert run.state is State.SUSPENDED
    assert "begins with the random numbers that it had" in str(run.plan(Restart()))
    drawn.is_ok = True
    assert resume(run) is State.FINISHED
    assert training.end() == expected


# -- iterable-style --------------------------------------------------------------------

ROWS = """\
class Rows(IterableDataset):
    def __iter__(self):
        for index in range(150):
            yield images[index] + torch.rand(()), labels[index]
"""


class Shaken:
    """A library's collate function: draws, then fails at the batch of its choice."""

    def __init__(self, bad: int | None) -> None:
        self.num_done = 0
        self.bad = bad

    def __call__(self, items: Any) -> Any:
        drawn = torch.rand(()) + np.random.rand()
        if self.num_done == self.bad:
            raise ValueError("cannot be collated")
        self.num_done += 1
        if isinstance(items, tuple):
            items = [items]
        xs, ys = zip(*items, strict=True)
        return torch.stack(xs) + drawn, torch.tensor(ys)


@pytest.mark.parametrize(
    ("options", "bad"), [("8", 12), ("8", 18), ("8, drop_last=True", 17), ("None", 70)]
)
def test_the_items_of_an_iterable_dataset_are_used_again(
    options: str, bad: int
) -> None:
    make = f"loader = DataLoader(Rows(), {options}, collate_fn=shaken)"
    plain = Training(make, define=ROWS)
    plain.names["shaken"] = Shaken(None)
    expected = clean(plain)
    training = Training(make, define=ROWS)
    training.names["shaken"] = Shaken(bad)
    run = training.start()
    assert run.state is State.SUSPENDED, run.error
    assert "as the dataset gave " in str(run.plan(Restart()))
    assert "with the random numbers that they had" in str(run.plan(Restart()))
    training.names["shaken"].bad = None
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_the_generator_of_the_users_is_held_inside() -> None:
    make = "loader = DataLoader(Rows(), 8)"
    expected = clean(Training(make, define=ROWS))
    line = "            yield images"
    source = ROWS.replace(line, f"            index == 60 and {{}}\n{line}")
    training = Training(make, define=source.format("[].pop()"))
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert run.suspension.innermost.name == "Rows.__iter__"
    training.book.redefine(run, source.format("0"))
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def rows(images: Any, labels: Any) -> Iterator[Any]:
    """A library's generator."""
    for image, label in zip(images, labels, strict=True):
        yield image / (label != 5 or image.sum()), label
        if label == 5:
            raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rows(images, labels)", "the generator rows, .* has ended"),
        ("map(lambda i: (images[i], [][i]), range(150))", "the map .* have moved on"),
    ],
)
def test_a_dataset_that_has_ended_is_refused(given: str, said: str) -> None:
    define = (
        "class Rows(IterableDataset):\n    def __iter__(self):\n"
        f"        return {given}\n"
    )
    training = Training("loader = DataLoader(Rows(), 8)", define=define)
    training.names["rows"] = rows
    run = training.start()
    assert run.state is State.SUSPENDED
    with pytest.raises(CannotResume, match=said):
        run.plan(Restart())
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED
