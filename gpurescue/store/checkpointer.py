"""Takes checkpoints of one run, in the background.

One at a time: what is asked for while one is being copied or written is taken at the
next boundary after it, as the run is then; the newest wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from gpurescue.errors import Locked, NotWritten, StoreError, Torn
from gpurescue.state.capture import STAYS, State, capture, missed
from gpurescue.store.devices import is_capturing
from gpurescue.store.format import DTYPES, Manifest
from gpurescue.store.jobs import Job, job_of
from gpurescue.store.layout import SMALL
from gpurescue.store.memory import Memory, memory_of
from gpurescue.store.newest import Newest
from gpurescue.store.pipe import Pipe
from gpurescue.store.plans import Plan
from gpurescue.store.retention import Rules
from gpurescue.store.room import room
from gpurescue.store.runs import Pulse
from gpurescue.store.snapshot import Snapshotter
from gpurescue.store.staging import Staging
from gpurescue.store.store import Store
from gpurescue.store.tidying import tidy

_log = logging.getLogger(__name__)

_IS_IN_THE_WAY = (NotWritten, Locked)  # of what could be written later
_IN_MEMORY = (
    "The newest checkpoints stay in the memory of this process until the run is over; "
    "then the last one is tried once more."
)
_PATIENCE = 60.0  # seconds that a run that is over waits for its last checkpoint
_RULES = Rules()
_TIMES_TORN = 2  # in a row: then training stands still for the copy


@dataclass(slots=True)
class Counts:
    """What came of the snapshots of a run.

    Attributes:
        published: Durable.
        torn: Found written to while they were copied: given up.
        stopped: Copied while training stood still, since others were torn.
        failed: Not written: the disk is full, or broken.
        waited: Asked for while another was under way.
    """

    published: int = 0
    torn: int = 0
    stopped: int = 0
    failed: int = 0
    waited: int = 0


@dataclass(frozen=True, slots=True)
class _Room:
    """Memory to be made ready."""

    staging: Staging
    nbytes: int
    num_gathered: int
    devices: set[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What is kept of a run.

    Attributes:
        parent: The checkpoint that the run has gone on from.
        num_in_memory: How many of the newest stay in memory as well; at least 1.
        rules: Which checkpoints stay on the disk.
        where: Says how far the run has come, for who asks after it.
    """

    parent: str | None = None
    num_in_memory: int = 2
    rules: Rules = _RULES
    where: Callable[[], str] = str


_KEEPING = Keeping()


class Checkpointer:
    """Takes checkpoints of one run.

    Args:
        store: Where they go.
        run: The run's id; nobody else writes its checkpoints.
        keeping: What is kept of it.
        on_done: Called in the background thread with what was published, or with why
            it was not.

    Attributes:
        counts: What came of them.
        stall: Seconds that training stood still for the last one.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        *,
        keeping: Keeping = _KEEPING,
        on_done: Callable[[Manifest | StoreError], None] = lambda done: None,
    ) -> None:
        self.store = store
        self.run = run
        self.counts = Counts()
        self.stall = 0.0
        self._on_done = on_done
        self._keeping = keeping
        self._snapshotter = Snapshotter()
        self._newest = Newest(store, keeping.num_in_memory)
        self._num_torn = 0
        self._fresh = 0  # bytes of the last pack: the next one is much like it
        self._changed = threading.Condition()
        self._job: Job | _Room | None = None
        self._is_over = False
        self._writer = contextlib.ExitStack()
        self._writer.enter_context(store.writer(run))
        self._pulse = Pulse(store.runs, run, keeping.parent, keeping.where)
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="gpurescue-copy")
        self._thread = threading.Thread(
            target=self._work, name=f"gpurescue-checkpoints-{run}", daemon=True
        )
        self._thread.start()

    # -- in the run's thread

    @property
    def is_busy(self) -> bool:
        """True while one is being copied or written."""
        return self._job is not None

    def take(self, state: State) -> bool:
        """Begin a checkpoint of a program; training stands still.

        The first time only room is made for it, in the background.

        Args:
            state: What it is of.

        Returns:
            False if it has not begun: an earlier one, or making room, is not done yet,
            or there will be a better place.

        Raises:
            NotWritten: There will never be room for it.
        """
        begun = time.perf_counter()
        if self.is_busy or self._is_over or is_capturing():
            self.counts.waited += 1
            return False
        with _nothing_collected():
            captured = capture(state.variables, DTYPES, state.program)
            if captured.is_awaited and not state.is_urgent:
                self.counts.waited += 1
                return False
            notes, why = state.notes, missed(captured.lost)
            if why is not None and state.is_whole:
                notes = {**notes, STAYS: why}
            memory = memory_of(captured)
            if not self._has_room(memory):
                return False
            snapshot = self._snapshotter.take(memory)
            job = job_of(captured, snapshot, notes, state)
        with self._changed:
            self._job = job
            self._changed.notify_all()
        if self._num_torn >= _TIMES_TORN:
            self.counts.stopped += 1
            snapshot.wait(_PATIENCE)
        self.stall = time.perf_counter() - begun - snapshot.waited
        return True

    def _has_room(self, memory: Memory) -> bool:
        """False while room is made: fresh pages are slow, and training would wait."""
        sizes = enumerate(memory.sizes)
        small = sum(x for n, x in sizes if x < SMALL or n in memory.moving)
        staging = self._newest.next
        needed = room(staging, self._fresh or sum(memory.sizes))
        devices = memory.devices
        if staging.has(needed) and self._snapshotter.is_prepared(2 * small, devices):
            return True
        with self._changed:
            self._job = _Room(staging, needed, 2 * small, devices)
            self._changed.notify_all()
        return False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the one that is under way is done; False at the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._job is None, timeout)

    def close(self, state: str = "closed") -> None:
        """Finish what is under way, and end.

        Args:
            state: How the run has ended.
        """
        self.wait(_PATIENCE)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(_PATIENCE)
        self._copier.shutdown()
        self._snapshotter.close()
        self.counts.published += self._newest.write_last()
        self._newest.close()
        self._pulse.end(state)
        self._writer.close()

    # -- in the background

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                job, is_over = self._job, self._is_over
            if job is None:
                if is_over:
                    return
                continue
            if isinstance(job, _Room):
                self._make_room(job)
                continue
            done: Manifest | StoreError
            try:
                done = self._finish(job)
            except StoreError as error:
                done = error
            except Exception as error:  # noqa: BLE001 - the run goes on without it
                _log.warning("A checkpoint was not taken.", exc_info=True)
                why = str(error).rstrip(".")
                done = StoreError(f"A checkpoint was not taken: {why}.")
            job.snapshot.forget()
            self._count(job, done)
            del job
            self._tidy()
            self._is_done()

    def _has_work(self) -> bool:
        return self._job is not None or self._is_over

    def _tidy(self) -> None:
        try:
            tidy(self.store, self.run, self._keeping.rules)
        except Locked:  # another process does: the next time
            return
        except StoreError:
            _log.warning("Old checkpoints were not removed.", exc_info=True)

    def _make_room(self, room: _Room) -> None:
        try:
            room.staging.reserve(room.nbytes)
            self._snapshotter.prepare(room.num_gathered, room.devices)
        except Exception:  # noqa: BLE001 - it is tried again
            _log.warning("There is no memory for a checkpoint.", exc_info=True)
        self._is_done()

    def _is_done(self) -> None:
        with self._changed:
            self._job = None
            self._changed.notify_all()

    def _count(self, job: Job, done: Manifest | StoreError) -> None:
        if isinstance(done, Manifest):
            self.counts.published += 1
            self._num_torn = 0
        elif isinstance(done, Torn):
            self.counts.torn += 1
            self._num_torn += 1
            self._snapshotter.found_torn(job.snapshot, done)
        else:
            self.counts.failed += 1
        try:
            self._on_done(done)
        except Exception:  # noqa: BLE001
            _log.warning("Nobody was told of a checkpoint.", exc_info=True)

    def _finish(self, job: Job) -> Manifest:
        """Copy, prove, write.

        Raises:
            Torn: Memory was written to before it was copied.
            NotWritten: The disk is full, or broken; it stays in memory.
            Locked: Another process collects garbage; it stays in memory.
        """
        job.settle()
        job.add_sources()
        self._newest.drop_oldest()
        job.snapshot.identify()
        with self._planned(job.snapshot.keys) as (plan, problem):
            nbytes = self._fresh = plan.layout.nbytes
            staging = self._newest.next
            staging.reserve(room(staging, nbytes))
            pipe = Pipe(staging, nbytes)
            plan = dataclasses.replace(plan, digests=job.snapshot.digests)
            done = self._copy(job, plan, pipe, problem)
        if isinstance(done, Manifest):
            if pipe.is_whole:
                self._newest.keep(plan)
            return done
        if not pipe.is_whole:
            raise done
        self._newest.keep_unwritten(plan, job.contents(self.run, self._keeping.parent))
        raise type(done)(f"{done} {_IN_MEMORY}") from done

    @contextlib.contextmanager
    def _planned(
        self, keys: list[tuple[str, int]]
    ) -> Iterator[tuple[Plan, StoreError | None]]:
        """Where chunks go, and why they cannot go there."""
        found: tuple[Plan, StoreError | None]
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(self.store.plan(keys)), None
            except _IS_IN_THE_WAY as error:
                found = self.store.planned(keys), error
            yield found

    def _copy(
        self, job: Job, plan: Plan, pipe: Pipe, problem: StoreError | None
    ) -> Manifest | StoreError:
        """Copy in one thread, and write in this one what has been copied.

        Raises:
            Torn: Memory was written to before it was copied.
        """
        job.snapshot.place(zip(plan.fresh, plan.layout.offsets, strict=True), pipe)
        copying = self._copier.submit(job.snapshot.copy)
        try:
            if problem is None:
                return self.store.publish(
                    plan, pipe.pieces(), job.contents(self.run, self._keeping.parent)
                )
        except _IS_IN_THE_WAY as error:
            problem = error
        finally:
            pipe.stop()
            wait([copying])
        assert problem is not None
        if pipe.is_whole:
            copying.result()  # torn: it is of no use in memory either
        return problem


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """No search for cycles: of 44,400 tensors it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
