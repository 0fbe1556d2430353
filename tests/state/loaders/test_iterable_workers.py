"""Workers over an iterable-style dataset that fails: they go the same way again."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from training import Training, clean, resume, spoil  # noqa: E402

from gpurescue.errors import CannotResume  # noqa: E402
from gpurescue.recovery.engine import Run, State  # noqa: E402
from gpurescue.recovery.plan import Action, Restart  # noqa: E402

pytestmark = pytest.mark.thorough

ROWS = """\
class Rows(IterableDataset):
    ends = {0: 150, 1: 150, 2: 150}
    def __iter__(self):
        worker = get_worker_info()
        for index in range(worker.id, self.ends[worker.id], worker.num_workers):
            yield self.one(index)
    def one(self, index):
        return images[index] * torch.rand(()) + random.random() + draw(), labels[index]
def draw():
    return np.random.randn()
"""
PLAIN = "loader = DataLoader(Rows(), 8, num_workers=2{})"
SAID = "begin the epoch of the dataset again"


def check(
    make: str,
    bug: Callable[[Training], Callable[[], None]] = spoil,
    *,
    said: str = SAID,
    **options: Any,
) -> Training:
    """Fail, mend, resume; everything must be as in the run that never failed."""
    options = {"define": ROWS, **options}
    expected = clean(Training(make, **options))
    training = Training(make, **options)
    mend = bug(training)
    run = training.start()
    assert run.state is State.SUSPENDED, run.error
    while run.state is State.SUSPENDED:
        assert said in str(run.plan(Restart()))
        mend()
        resume(run)
    assert run.state is State.FINISHED, run.error
    assert training.end() == expected
    return training


OPTIONS = {
    "plain": "",
    "persistent": ", persistent_workers=True",
    "far ahead": ", prefetch_factor=5",
    "hardly ahead": ", prefetch_factor=1",
    "in time": ", timeout=30",
    "own generator": ", generator=torch.Generator()",
    "own start": ", worker_init_fn=lambda worker: np.random.seed(worker)",
    "drop last": ", drop_last=True",
    "pinned": ", pin_memory=True",
}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_bad_item_is_mended(name: str) -> None:
    check(PLAIN.format(OPTIONS[name]))


@pytest.mark.parametrize("bad", [0, 1, 16, 149])
def test_anywhere(bad: int) -> None:
    check(PLAIN.format(""), lambda training: spoil(training, bad))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_other_numbers_of_workers(num_workers: int) -> None:
    make = PLAIN.replace("=2", f"={num_workers}").format("")
    check(make, said="the epoch of the dataset again")


def test_without_batches() -> None:
    make = PLAIN.replace("8", "None").format("")
    unpack = "(batch[0][None], torch.tensor([batch[1]]))"

    def bug(training: Training) -> Callable[[], None]:
        good, training.images[90] = training.images[90], None
        return lambda: training.images.__setitem__(90, good)

    check(make, bug, unpack=unpack)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("end", [0, 20, 70, 100])
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("options", ["", ", persistent_workers=True"])
def test_a_worker_that_has_come_to_its_end(
    end: int, num_workers: int, options: str
) -> None:
    make = PLAIN.replace("=2", f"={num_workers}").format(options)
    define = ROWS.replace("1: 150", f"1: {end}")
    bad = 102 if num_workers == 2 else 101
    check(make, lambda training: spoil(training, bad), define=define)


FLAGGED = """
flag = torch.zeros(1).share_memory_()
class Flagged(Rows):
    def one(self, index):
        if flag[0] and index == 90:
            raise OSError(index)
        return super().one(index)
def between(epoch):
    flag[0] = epoch == bad
    return loader
"""


@pytest.mark.parametrize("bad", [1, 2])
def test_a_later_epoch_of_workers_that_stay(bad: int) -> None:
    make = PLAIN.replace("Rows", "Flagged").format(", persistent_workers=True")
    options: dict[str, Any] = {"loop": "between(epoch)", "epochs": 4}
    plain = Training(make, define=ROWS + FLAGGED, **options)
    training = Training(make, define=ROWS + FLAGGED, **options)
    plain.names["bad"], training.names["bad"] = -1, bad
    expected = clean(plain)
    run = training.start()
    assert run.state is State.SUSPENDED
    training.names["flag"][0] = 0
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_it_may_fail_again_and_again() -> None:
    make = PLAIN.format("")
    expected = clean(Training(make, define=ROWS))
    training = Training(make, define=ROWS)
    mends = [spoil(training, index) for index in (20, 61, 100, 101)]
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


def test_a_failure_on_the_way_is_mended_too() -> None:
    make = PLAIN.format("")
    expected = clean(Training(make, define=ROWS))
    training = Training(make, define=ROWS)
    mends = [spoil(training, 100)]
    run = training.start()
    assert run.state is State.SUSPENDED
    mends.append(spoil(training, 31))  # passed over before, and good then
    assert resume(run) is State.SUSPENDED
    for mend in mends:
        mend()
    assert resume(run) is State.FINISHED
    assert training.end() == expected


GATHER = """
def gather(items):
    xs, ys = zip(*items)
    SPOILED
    return torch.stack(xs) + torch.rand(()), torch.tensor(ys)
"""


def test_an_edit_of_the_dataset_is_in_all_new_workers() -> None:
    make = PLAIN.format("")
    good = ROWS.replace("yield", "index = int(index)\n            yield")
    expected = clean(Training(make, define=good))
    bad = good.replace("int(index)", "int(index if index < 90 else 'ninety')")
    training = Training(make, define=bad)
    run = training.start()
    assert run.state is State.SUSPENDED
    training.book.redefine(run, good)
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_an_edit_of_the_collate_function_is_in_all_new_workers() -> None:
    make = PLAIN.format(", collate_fn=gather")
    good = GATHER.replace("SPOILED", "pass")
    expected = clean(Training(make, define=ROWS + good))
    bad = GATHER.replace("SPOILED", "if len(xs) < 8: raise OSError(len(xs))")
    training = Training(make, define=ROWS + bad)
    run = training.start()
    assert run.state is State.SUSPENDED
    training.book.redefine(run, good)
    assert resume(run) is State.FINISHED
    assert training.end() == expected


def test_any_wrapper_stays_alive() -> None:
    for loop, unpack in (
        ("itertools.islice(zip(itertools.count(), through(loader)), 18)", "batch[1]"),
        ("range(15) if (it := iter(loader)) is not None else ()", "next(it)"),
    ):
        check(PLAIN.format(""), loop=loop, unpack=unpack)


def test_a_library_iterator_in_the_dataset() -> None:
    define = ROWS.replace("self.one(index)", "None").replace(
        "    def __iter__",
        "    def __iter__(self):\n"
        "        at = get_worker_info().id\n"
        "        return map(self.one, range(at, 150, 2))\n"
        "    def unused",
    )
    check(PLAIN.format(""), define=define)


KILLED = """
class Killed(Rows):
    def one(self, index):
        if deadly and index == 90:
            {}
        return super().one(index)
"""


@pytest.mark.parametrize(
    ("options", "deed"),
    [
        ("", "os.kill(os.getpid(), signal.SIGKILL)"),
        (", persistent_workers=True", "os.kill(os.getpid(), signal.SIGKILL)"),
        (", timeout=3", "time.sleep(60)"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_replaced(options: str, deed: str) -> None:
    make = PLAIN.replace("Rows", "Killed").format(options)
    define = ROWS + KILLED.format(deed)
    plain, training = Training(make, define=define), Training(make, define=define)
    for each in (plain, training):
        each.names |= {"os": os, "signal": signal, "time": time}
        each.names["deadly"] = each is training
    expected = clean(plain)
    run = training.start()
    assert run.state is State.SUSPENDED
    assert resume(run) is State.SUSPENDED  # it is not mended yet
    training.names["deadly"] = False
    assert resume(run) is State.FINISHED
    assert training.end() == expected


# -- left out --------------------------------------------------------------------------


class Shaken:
    """A library's collate function: draws, and chokes on one label in one place."""

    is_bad = False

    def __call__(self, items: Any) -> Any:
        xs, ys = zip(*items, strict=True)
        if self.is_bad and any(len(x) < 64 for x in xs):
            raise ValueError("too short")
        return torch.stack(xs), torch.tensor(ys)


def test_a_skipped_batch_is_left_out_and_nothing_else() -> None:
    make = PLAIN.format(", collate_fn=shaken")
    plain = Training(make, define=ROWS, epochs=1)
    plain.names["shaken"] = Shaken()
    expected = clean(plain)["batches"]
    training = Training(make, define=ROWS, epochs=1)
    training.names["shaken"] = Shaken()
    training.names["shaken"].is_bad = True
    mends = [spoil(training, index) for index in (50, 120)]
    run = training.start()
    first = len(training.seen)
    assert resume(run, action=Action.SKIP) is State.SUSPENDED
    mends[1]()
    assert resume(run) is State.FINISHED
    assert training.seen == expected[:first] + expected[first + 1 :]


def test_a_dataset_that_fails_itself_cannot_be_skipped() -> None:
    make = PLAIN.format("")
    fails = "        if index == bad: raise OSError(index)\n        return images"
    define = ROWS.replace("        return images", fails)
    plain, training = Training(make, define=define), Training(make, define=define)
    plain.names["bad"], training.names["bad"] = None, 50
    expected = clean(plain)["batches"]
    run = training.start()
    first = len(training.seen)
    assert resume(run, action=Action.SKIP) is State.SUSPENDED
    training.names["bad"] = None
    assert resume(run) is State.FINISHED
    assert training.seen[: len(expected) // 2 - 1] == (
        expected[:first] + expected[first + 1 : len(expected) // 2]
    )


# -- told of or refused ----------------------------------------------------------------


def held(training: Training, said: str) -> Run:
    mend = spoil(training, 90)
    run = training.start()
    assert run.state is State.SUSPENDED
    mend()
    assert resume(run) is State.SUSPENDED
    assert run.suspension is not None
    assert isinstance(run.suspension.error, CannotResume)
    assert said in str(run.suspension.error)
    return run


@pytest.mark.parametrize(
    "define",
    [
        ROWS.replace("labels[index]", "labels[index] * (not seen)"),
        ROWS.replace("range(worker.id", "range(worker.id + 2 * bool(len(seen))"),
        ROWS.replace("self.ends[worker.id]", "20 if seen else 150"),
        ROWS.replace("+ draw()", "+ draw() + (draw() if seen else 0)"),
    ],
    ids=["items", "begin", "end", "draws"],
)
def test_a_dataset_that_gives_others_is_told_of(define: str) -> None:
    training = Training(PLAIN.format(""), define=define, epochs=1)
    training.names["seen"] = training.seen
    run = held(training, "the dataset gave it other items than before")
    assert "even if other ones come now" in str(run.plan(Restart()))
    assert resume(run) is State.FINISHED


def test_a_dataset_that_counts_its_epochs_is_told_of() -> None:
    counting = FLAGGED.replace(
        "    def one",
        "    epoch = 0\n"
        "    def __iter__(self):\n"
        "        self.epoch += 1\n"
        "        return ((x + self.epoch, y) for x, y in super(Flagged, self)"
        ".__iter__())\n"
        "    def one",
    )
    make = PLAIN.replace("Rows", "Flagged").format(", persistent_workers=True")
    training = Training(make, define=ROWS + counting, loop="between(epoch)")
    training.names["bad"] = 1
    run = training.start()
    assert run.state is State.SUSPENDED
    training.names["flag"][0] = 0
    assert resume(run) is State.SUSPENDED
    assert run.suspension is not None
    assert "the dataset gave it other items" in str(run.suspension.error)
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (PLAIN.format(", in_order=False"), "in_order=False"),
        ("loader = DataLoader(pipe, 8, num_workers=2)", "over a DataPipe"),
    ],
)
def test_what_cannot_be_gone_again_is_refused(make: str, said: str) -> None:
    training = Training(make, define=ROWS)
    spoil(training, 90)
    rows = list(zip(training.images, training.names["labels"], strict=True))
    training.names["pipe"] = torch.utils.data.datapipes.iter.IterableWrapper(rows)
    run = training.start()
    assert run.state is State.SUSPENDED
    with pytest.raises(CannotResume, match=said):
        run.plan(Restart())
    run.resume(Restart(action=Action.ABANDON))
    assert run.wait(30) is State.ABANDONED


def test_an_iterator_dies_with_its_last_reference() -> None:
    training = Training(
        PLAIN.format("") + "\nit = iter(loader); next(it); ref = weakref.ref(it)\n"
        "del it\nalive = ref()",
        define=ROWS + "import weakref, gc; gc.disable()\n",
        epochs=0,
    )
    try:
        assert training.start().state is State.FINISHED
    finally:
        gc.enable()
    assert training.names["alive"] is None
