"""A DataLoader with workers that fails: new workers, the same batches."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from training import Training, clean, resume, spoil  # noqa: E402

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.recovery.engine import Run, State  # noqa: E402
from gpurescue.recovery.plan import Action, Restart  # noqa: E402

pytestmark = pytest.mark.thorough

PLAIN = "loader = DataLoader(Digits(), batch_size=8, shuffle=True, num_workers=2{})"
DRAWING = PLAIN.replace(
    "Digits()", "Digits(lambda x: x * torch.rand(()) + random.random() + draw())"
)
DRAW = "def draw():\n    return np.random.randn()\n"


def check(
    make: str,
    bug: Callable[[Training], Callable[[], None]] = spoil,
    *,
    said: str = "new workers fetch the same batch",
    **options: Any,
) -> tuple[Training, Run]:
    """Fail, mend, resume; everything must be as in the run that never failed."""
    options["define"] = DRAW + options.get("define", "")
    expected = clean(Training(make, **options))
    training = Training(make, **options)
    mend = bug(training)
    run = training.start()
    while run.state is State.SUSPENDED:
        assert said in str(run.plan(Restart()))
        mend()
        resume(run)
    assert run.state is State.FINISHED, run.error
    assert run.num_suspensions > 0
    assert training.end() == expected
    return training, run


OPTIONS = {
    "plain": "",
    "drawing": "",
    "persistent": ", persistent_workers=True",
    "far ahead": ", prefetch_factor=5",
    "hardly ahead": ", prefetch_factor=1",
    "in time": ", timeout=30",
    "own generator": ", generator=torch.Generator()",
    "own start": ", worker_init_fn=begin",
    "one worker": ", num_workers=1",
    "three workers": ", num_workers=3",
    "drop last": ", drop_last=True, batch_size=7",
    "pinned": ", pin_memory=True",
}
BEGIN = """\
def begin(worker):
    info = get_worker_info()
    assert info.id == worker and info.num_workers == 2
    np.random.seed(info.seed % 1000)
    info.dataset.seed = info.seed
"""


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_bad_sample_is_mended(name: str) -> None:
    given, make = OPTIONS[name], PLAIN if name == "plain" else DRAWING
    for option in ("num_workers=", "batch_size="):
        if option in given:
            make = make.replace(f", {option}{'2' if 'num' in option else '8'}", "")
    said = "fetches the same batch" if name == "one worker" else "fetch the same batch"
    check(make.format(given), said=said, define=BEGIN)


FLAGGED = """\
flag = torch.zeros(1).share_memory_()
class Flagged(Digits):
    def __getitem__(self, index):
        if flag[0] and index == 100:
            raise OSError(index)
        return super().__getitem__(index)
def between(epoch):
    flag[0] = epoch == bad
    return loader
"""


@pytest.mark.parametrize("bad", [1, 2])
def test_a_later_epoch_of_workers_that_stay(bad: int) -> None:
    make = DRAWING.replace("Digits(", "Flagged(").format(", persistent_workers=True")
    options: dict[str, Any] = {"loop": "between(epoch)", "epochs": 4}
    plain = Training(make, define=DRAW + FLAGGED, **options)
    training = Training(make, define=DRAW + FLAGGED, **options)
    plain.names["bad"], training.names["bad"] = -1, bad
    expected = clean(plain)
    run = training.start()
    assert run.state is State.SUSPENDED
    assert bad * 20 <= len(training.seen) < bad * 20 + 20
    training.names["flag"][0] = 0
    assert resume(run) is State.FINISHED
    assert training.end() == expected


GATHER = """\
def gather(items):
    xs, ys = zip(*items)
    {}
    return torch.stack(xs), torch.tensor(ys)
"""


@pytest.mark.parametrize("where", ["first batch", "last batch", "short batch"])
def test_an_edit_of_the_collate_function_is_in_all_new_workers(where: str) -> None:
    label = {"first batch": 2, "last batch": 150, "short batch": 159}[where]
    options = ", collate_fn=gather" + (", drop_last=True" * (where == "last batch"))
    make = PLAIN.replace(", shuffle=True", "").format(options)
    make = make.replace("batch_size=8", "batch_size=9")
    good = GATHER.format("xs = [x * 2 for x in xs]")
    expected = clean(Training(make, define=good))
    training = Training(make)
    training.names["bad"] = float(training.images[label].sum())
    check_bad = "if bad in [float(x.sum()) for x in xs]: raise OSError(9)"
    training.book.cell(GATHER.format(f"{check_bad}\n    xs = [x * 2 for x in xs]"))
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert "in gather" in str(run.suspension.error)
    assert "gpurescue" not in str(run.suspension.error)
    training.book.redefine(run, good)
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_a_collate_function_that_is_set_on_the_loader_is_used() -> None:
    good = (
        "gather = lambda s: (torch.stack([x for x, _ in s]), torch.zeros(8).long())\n"
    )
    bad = good.replace("lambda s:", "lambda s: [].pop() if s[0][1] == 7 else")
    make = PLAIN.format(", collate_fn=gather")
    expected = clean(Training(make, define=good))
    training = Training(make, define=bad)
    run = training.start()
    assert run.state is State.SUSPENDED
    training.book.cell(good + "loader.collate_fn = gather\n")
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_it_may_fail_again_and_again() -> None:
    make = DRAWING.format("")
    expected = clean(Training(make, define=DRAW))
    training = Training(make, define=DRAW)
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


def test_any_wrapper_stays_alive() -> None:
    for loop, unpack in (
        ("itertools.islice(zip(itertools.count(), through(loader)), 18)", "batch[1]"),
        ("range(15) if (it := iter(loader)) else ()", "next(it)"),
    ):
        check(DRAWING.format(""), loop=loop, unpack=unpack)


def test_ways_to_make_batches() -> None:
    weights = "weights = [1 + i % 3 for i in range(160)]\n"
    plain = PLAIN.replace("batch_size=8, shuffle=True", "{}")
    for option in (
        "8, sampler=WeightedRandomSampler(weights, 1500)",
        "batch_sampler=BatchSampler(RandomSampler(images), 9, False)",
        "8, sampler=DistributedSampler(images, 2, 1)",
    ):
        check(plain.format(option, ""), define=weights, epochs=1)


def test_out_of_order_no_batch_is_lost_or_seen_twice() -> None:
    make = PLAIN.format(", in_order=False")
    expected = clean(Training(make, epochs=1))
    training = Training(make, epochs=1)
    mend = spoil(training)
    run = training.start()
    assert run.state is State.SUSPENDED
    mend()
    assert resume(run) is State.FINISHED
    assert sorted(training.seen) == sorted(expected["batches"])


def test_a_skipped_batch_is_left_out_and_nothing_else() -> None:
    make = DRAWING.format("")
    expected = clean(Training(make, define=DRAW, epochs=1))["batches"]
    training = Training(make, define=DRAW, epochs=1)
    spoil(training)
    run = training.start()
    at = len(training.seen)
    assert resume(run, action=Action.SKIP) is State.FINISHED
    assert training.seen == expected[:at] + expected[at + 1 :]


# -- workers that die ------------------------------------------------------------------

KILL = """\
class Killed(Digits):
    def __getitem__(self, index):
        if index == 100 and deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
"""


@pytest.mark.parametrize("options", ["", ", persistent_workers=True", ", timeout=20"])
def test_a_worker_that_is_killed_is_replaced(options: str) -> None:
    make = DRAWING.replace("Digits(", "Killed(").format(options)
    plain, training = Training(make, define=DRAW), Training(make, define=DRAW)
    for each in (plain, training):
        each.names |= {"os": os, "signal": signal, "deadly": each is training}
        each.book.cell(KILL)
    expected = clean(plain)
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert isinstance(run.suspension.error, RuntimeError | OSError)
    training.names["deadly"] = False
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_a_batch_that_kills_can_be_skipped() -> None:
    make = PLAIN.replace("Digits(", "Killed(").format("")
    plain, training = Training(make, epochs=1), Training(make, epochs=1)
    for each in (plain, training):
        each.names |= {"os": os, "signal": signal, "deadly": each is training}
        each.book.cell(KILL)
    expected = clean(plain)["batches"]
    run = training.start()
    while run.state is State.SUSPENDED:
        resume(run, action=Action.SKIP)
    assert run.state is State.FINISHED
    missing = [batch for batch in expected if batch not in training.seen]
    assert 0 < len(missing) <= 4
    assert training.seen == [b for b in expected if b not in missing]


def test_a_worker_that_hangs_is_replaced() -> None:
    make = DRAWING.replace("Digits(", "Slow(").format(", timeout=3")
    slow = KILL.replace("Killed", "Slow").replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(60)"
    )
    plain, training = Training(make, define=DRAW), Training(make, define=DRAW)
    for each in (plain, training):
        each.names |= {"time": time, "deadly": each is training}
        each.book.cell(slow)
    expected = clean(plain)
    run = training.start()
    assert run.state is State.SUSPENDED
    assert run.suspension is not None
    assert "timed out" in str(run.suspension.error)
    training.names["deadly"] = False
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_workers_that_do_not_start_hold_the_run_again() -> None:
    training = Training(PLAIN.format(", worker_init_fn=begin"), define="begin = None\n")
    expected = clean(Training(PLAIN.format("")))
    mend = spoil(training)
    run = training.start()
    assert run.state is State.SUSPENDED
    mend()
    loader = training.names["loader"]
    context = loader.multiprocessing_context
    crew = _crew_of(run)
    crew.options["multiprocessing_context"] = Broken()
    assert resume(run) is State.SUSPENDED
    assert run.suspension is not None
    assert "no more processes" in str(run.suspension.error)
    crew.options["multiprocessing_context"] = context
    assert resume(run) is State.FINISHED
    assert training.end() == expected


class Broken:
    """A context in which nothing can be started."""

    def __getattr__(self, name: str) -> Any:
        if name == "Process":
            raise OSError("no more processes")
        return getattr(multiprocessing, name)


def _crew_of(run: Run) -> Any:
    assert run.suspension is not None
    return vars(run.suspension.iterator)["_gr_crew"]


# -- refusals --------------------------------------------------------------------------


def refused(training: Training, said: str) -> None:
    run = training.start()
    assert run.state is State.SUSPENDED
    with pytest.raises(CannotResume, match=said):
        run.plan(Restart())
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED


def test_a_sampler_that_has_ended_is_refused() -> None:
    make = "loader = DataLoader(Digits(), 8, num_workers=2, sampler=numbers)"
    training = Training(make)
    training.names["numbers"] = Numbers()
    refused(training, "the sampler, which says what comes next, has ended")


class Numbers:
    """A library's sampler."""

    def __iter__(self) -> Iterator[int]:
        yield from range(70)
        raise OSError("the file with the order of samples ends here")

    def __len__(self) -> int:
        return 150


def test_workers_from_before_the_run_are_refused() -> None:
    training = Training("loader = before", loop="it", epochs=1)
    training.book.cell(
        "before = DataLoader(Digits(), 8, num_workers=2)\nit = iter(before)\n"
    )
    spoil(training)
    training.names["it"] = iter(training.names["before"])
    spoil(training, 99)
    refused(training, "were started before the run began")


# -- nothing is left behind ------------------------------------------------------------


def test_an_iterator_dies_with_its_last_reference() -> None:
    training = Training(
        "loader = DataLoader(Digits(), 8, num_workers=2)\n"
        "it = iter(loader); next(it); refs = [weakref.ref(it)]; del it\n"
        "it = iter(DataLoader(Digits(), 8)); next(it); refs.append(weakref.ref(it))\n"
        "del it\n"
        "alive = [ref() for ref in refs]",
        define="import weakref, gc; gc.disable()\n",
        epochs=0,
    )
    try:
        assert training.start().state is State.FINISHED
    finally:
        gc.enable()
    assert training.names["alive"] == [None, None]


def test_everything_is_as_before_when_the_run_is_over() -> None:
    from torch.utils.data import dataloader

    kinds = [
        dataloader._BaseDataLoaderIter,
        dataloader._SingleProcessDataLoaderIter,
        dataloader._MultiProcessingDataLoaderIter,
        dataloader.DataLoader,
    ]
    before = [dict(vars(kind)) for kind in kinds]
    training = Training(PLAIN.format(""), epochs=1)
    training.define = ""
    during: list[bool] = []
    training.names["look"] = lambda: during.append(
        [dict(vars(kind)) for kind in kinds] != before
    )
    training.make += "\nlook()"
    assert training.start().state is State.FINISHED
    assert during == [True]
    assert [dict(vars(kind)) for kind in kinds] == before
