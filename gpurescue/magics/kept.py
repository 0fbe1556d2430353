"""What a person does with the notebook's checkpoints."""

from __future__ import annotations

import contextlib
import html
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from gpurescue.errors import StoreError, UsageError
from gpurescue.state import slots
from gpurescue.state.named import tree
from gpurescue.store import objects, restore, tables
from gpurescue.store.bars import bar
from gpurescue.store.packs import Progress
from gpurescue.store.reading import Reader
from gpurescue.store.runs import RUNNING
from gpurescue.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from gpurescue.magics.front import Front
    from gpurescue.magics.session import Job

NEWEST = "newest"
_NONE = "There are no checkpoints yet; %%resilient --budget 1 takes some."


def opened(front: Front) -> Store:
    """The notebook's store.

    Raises:
        UsageError: There is none yet.
    """
    if not front.keeper.path.exists():
        raise UsageError(_NONE)
    return front.keeper.store()


def table(front: Front) -> pd.DataFrame:
    """All checkpoints, oldest first."""
    store = opened(front)
    with _listing(store) as progress:
        return tables.checkpoints(store, progress)


def show(front: Front) -> None:
    """``%checkpoints``."""
    store = opened(front)
    with _listing(store) as progress:
        text = tables.text(tables.lines(store, progress))
    front.shell.show(f"<pre>{html.escape(text)}</pre>", text)


def _listing(store: Store) -> AbstractContextManager[Progress]:
    count = len(store.rows()) + len(store.unwritten())
    return bar("checkpoints", count, "", in_notebook=True)


def secured(front: Front, job: Job) -> str:
    """Finish what is being written of a run that cannot go on, and say what there is.

    What the host holds is written; it counts as a run that did not end.
    """
    if job.regular is None or not job.regular.has_begun:
        return (
            "There is no checkpoint of this run: it took none (%%resilient --budget 1)."
        )
    job.regular.close(RUNNING)
    with contextlib.suppress(StoreError, UsageError):
        rows = opened(front).rows()
        if rows:
            last = max(rows, key=lambda row: row.created)
            ago = tables.age(time.time() - last.created)
            return f"The newest checkpoint is {ago} old, of {last.place}."
    return "There is no checkpoint of this run."


def find(store: Store, name: str) -> str:
    """The id that a name stands for: an id, how it begins, or ``newest``.

    Raises:
        UsageError: It stands for none, or for several.
    """
    rows = [*store.rows(), *store.unwritten()]
    ids = [row.id for row in sorted(rows, key=lambda row: (row.created, row.number))]
    found = ids[-1:] if name == NEWEST else [id for id in ids if id.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(ids[-3:]) or "none"
    many = "no checkpoint" if not found else f"{len(found)} checkpoints"
    raise UsageError(f"{many} of that name: {name!r}; the newest ones are {known}.")


def put_back(
    front: Front, name: str, into: Mapping[str, Any] | None, *, lazy: bool
) -> restore.Restored:
    """Put a checkpoint into live objects, and the random streams back.

    Args:
        front: Of the notebook.
        name: See ``find``.
        into: Objects by the names of the checkpoint's variables; the notebook's
            variables if None.
        lazy: Return before everything is read.

    Raises:
        UsageError: There is no such checkpoint, or what it has does not fit.
        Damaged: Its bytes are not those that were written; nothing was changed.
    """
    if front.session.alive is not None:
        raise UsageError(
            f"Run {front.session.alive.run.number} is alive; finish it with %resume or "
            "give it up with %resume --abandon before its objects are exchanged."
        )
    store = opened(front)
    id = find(store, name)
    manifest, is_signed = store.manifest(id)
    reader = Reader(store, manifest)
    roots = {tensor.partition(".")[0] for tensor in manifest.tensors}
    given = front.session.namespace if into is None else into
    live = {root: given[root] for root in sorted(roots) if root in given}
    if into is not None:
        live = dict(into)
    saved = objects.load(store, id) if is_signed else {}
    skeletons = slots.skeletons(tree(saved)) if saved else None
    objects.make_ready(saved, live)
    done = restore.restore(
        reader, live, skeletons=skeletons, lazy=lazy, strict=into is not None
    )
    front.keeper.restored = done
    objects.put_back(saved, given)
    objects.put_streams_back(reader)
    return done


def verify(front: Front) -> dict[str, list[str]]:
    """Read all checkpoints; what is wrong, by checkpoint."""
    store = opened(front)
    nbytes = sum(row.added for row in store.rows())
    with bar("verify", nbytes, in_notebook=True) as progress:
        return store.verify(progress)
