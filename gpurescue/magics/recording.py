"""One run of the notebook, as it is recorded: what it is made of, and who writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpurescue.errors import StoreError
from gpurescue.events import Event, PatchApplied
from gpurescue.hindsight import environment
from gpurescue.hindsight.journal import Journal, Origin
from gpurescue.hindsight.recorder import Recorder
from gpurescue.hindsight.records import Records
from gpurescue.magics.keeping import Keeper
from gpurescue.magics.scene import LOGGED
from gpurescue.magics.session import Job
from gpurescue.source import cells
from gpurescue.source import versions as marks
from gpurescue.source.modules import Modules
from gpurescue.state.capture import used_codes
from gpurescue.store.keys import key
from gpurescue.store.store import Store

BODY = "run"  # name of the source of the cell that was run
_PATIENCE = 30.0


class Recording:
    """Has one run recorded, if that is wanted.

    Args:
        keeper: Knows the store, and the settings.
        modules: The user's.
        job: The run.
        id: What it is called in the store.
    """

    def __init__(self, keeper: Keeper, modules: Modules, job: Job, id: str) -> None:
        self._keeper = keeper
        self._modules = modules
        self._job = job
        self._id = id
        self._recorder: Recorder | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin, before the run does.

        Args:
            settings: Values of its arguments, by name.
        """
        is_wanted = self._keeper.settings.records
        if not is_wanted and not settings:
            return
        run, say = self._job.run, self._keeper.shell.say
        began, path = time.time(), self._keeper.path
        sources = self._sources()

        def opened() -> Journal:
            store = Store(path, key=key(create=True), create=True)
            records = Records(store.path, create=True)
            origin = self._origin(store, began, sources)
            return Journal(records, origin)

        found = Recorder(
            run.clock,
            opened if is_wanted else None,
            settings,
            lambda why: say(f"Nothing is recorded: {why}"),
        )
        self._recorder = found
        self._unsubscribe = run.bus.subscribe(self._happened)
        found.start()

    def num_logged(self) -> int:
        """Values that the run has logged by now."""
        return 0 if self._recorder is None else self._recorder.num_noted

    def settle(self) -> None:
        """Wait until what was logged by now is written down."""
        if self._recorder is not None:
            self._recorder.settle()

    def ended(self) -> None:
        """The run is over; what is left is written down by another thread."""
        self._unsubscribe()
        recorder = self._recorder
        if recorder is None:
            return
        recorder.stop()

        def close() -> None:
            recorder.close(self._job.run.wait(_PATIENCE).value)

        threading.Thread(target=close, name="gpurescue-last-record").start()

    def _happened(self, event: Event) -> None:
        if isinstance(event, PatchApplied) and self._recorder is not None:
            if event.run == self._job.run.number:
                self._recorder.patched(event.name, event.before, event.after)

    def _origin(self, store: Store, began: float, sources: dict[str, str]) -> Origin:
        folder = Path(self._keeper.shell.folders()[-1])
        parent, num_before = self._parent(store)
        return Origin(
            id=self._id,
            began=began,
            sources=sources,
            environment=environment.facts(folder),
            notebook=self._keeper.shell.notebook,
            parent=parent,
            checkpoint=self._job.parent,
            num_before=num_before,
        )

    def _parent(self, store: Store) -> tuple[str | None, int]:
        """The run that this one goes on with, and what that had logged then."""
        if self._job.parent is None:
            return None, 0
        try:
            manifest, _ = store.manifest(self._job.parent)
        except StoreError:  # removed since
            return None, 0
        num = manifest.notes.get(LOGGED)
        return manifest.run, num if isinstance(num, int) else 0

    def _sources(self) -> dict[str, str]:
        """Texts of the cells and modules that the run is made of, by name.

        Names are the same in each kernel: those of modules are their files, cells are
        numbered in the order in which the run comes by them.
        """
        script = self._job.script
        codes = used_codes(script.code, self._job.run.body.namespace)
        names = dict.fromkeys(marks.source_name(code) for code in codes)
        found = {BODY: script.text.written}
        modules = {loaded.version.unit.filename: loaded for loaded in self._modules}
        for name in names:
            unit = cells.unit(name)
            if unit is not None and name not in {*modules, script.text.filename}:
                found[f"cell {len(found)}"] = unit.source
        for loaded in modules.values():
            found[loaded.label] = loaded.version.unit.source
        return found
