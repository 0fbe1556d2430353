"""A run goes on from a checkpoint, in a kernel that has never seen it."""

from __future__ import annotations

import hashlib
import os
import platform
import time
import tokenize
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from gpurescue.errors import CannotResume, StoreError, UsageError
from gpurescue.magics import kept, scene, scripts
from gpurescue.magics.front import Front
from gpurescue.magics.imported import Imported
from gpurescue.magics.outside import Outside
from gpurescue.magics.scene import CELL, MODULES, SETTINGS, VERSIONS
from gpurescue.magics.scripts import Script
from gpurescue.magics.session import GoingOn, Options
from gpurescue.magics.waiting import Waiter
from gpurescue.recovery import revival
from gpurescue.recovery.engine import Body
from gpurescue.recovery.hands import Rounds
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.loops import Clock
from gpurescue.source import cells
from gpurescue.state import surroundings
from gpurescue.state.capture import STACK, STAYS
from gpurescue.store import objects, tables
from gpurescue.store.catalog import WHERE
from gpurescue.store.format import Manifest
from gpurescue.store.reading import Reader
from gpurescue.store.runs import Seen
from gpurescue.store.store import Store


def go_on(
    front: Front,
    name: str,
    options: Options,
    *,
    force: bool = False,
    trust: bool = False,
) -> Waiter:
    """``%restore``: bring a run back, and go on in the middle of its loop.

    Args:
        front: Of the notebook.
        name: An id, how it begins, or ``newest``.
        options: How the run is to be started.
        force: Go on although something is not as it was then.
        trust: Sign the checkpoint first, whoever has written it.

    Raises:
        UsageError: There is no such checkpoint, or a run is alive.
        CannotResume: The run cannot be gone on with from there; says why.
        Refused, Damaged: The checkpoint is somebody else's, or not what was written.
    """
    front.session.check_outside()
    _check_idle(front)
    store = kept.opened(front)
    id = _whole(store, name)
    if trust:
        front.keeper.trust(id)
        store = kept.opened(front)
    manifest, is_signed = store.manifest(id)
    objects.check_signed(id, is_signed)
    reader = Reader(store, manifest)
    _check_dead(store.runs.of(manifest.run), force=force)
    _check_like(reader, force=force)
    imports = Imported(
        front.modules,
        manifest.notes.get(MODULES, ()),
        objects.sources(reader),
        has_lost=bool(manifest.lost),
    )
    names = front.session.namespace
    before = dict(names)
    script, again, outside = _brought_back(names, before, store, id, imports)
    front.surroundings.began = outside.began
    _tell_of(imports, manifest, front)
    front.shell.say(
        f"Goes on from checkpoint {id[:8]}, {_place(manifest)}"
        f"{_behind(store.runs.of(manifest.run))}.{outside.told}"
    )
    try:
        return front.go_on_from(script, options, again)
    except Exception:
        outside.close()  # they do not stand where they stood yet
        imports.take_back()
        _put_back(names, before)
        raise


def _brought_back(
    names: dict[str, Any],
    before: dict[str, Any],
    store: Store,
    id: str,
    imports: Imported,
) -> tuple[Script, GoingOn, Outside]:
    """Load a run into the notebook's variables; if it fails, all is as before."""
    outside: Outside | None = None
    try:
        with surroundings.entering(objects.surroundings_of(store, id)):
            imports.load()
            found = objects.load(store, id, names, ready=imports.fill)
            outside = Outside.of(found, store, id)
            script, clock = _script(found), Clock()
            settings = found.get(SETTINGS, {})
            body = _body(found, names, clock)
            edited = _take_over(names, found, before)
    except BaseException:
        if outside is not None:
            outside.close()
        imports.take_back()
        _put_back(names, before)
        raise
    found.clear()  # nothing else may keep an iterator alive
    again = GoingOn(
        checkpoint=id,
        body=body,
        on_start=outside.go_on,
        edit=lambda redefinitions: carry(edited, names, redefinitions),
        settings=settings,
    )
    return script, again, outside


def tell(front: Front) -> None:
    """Say so, in one line, if the last run here was killed and can be gone on with."""
    if not front.keeper.path.exists():
        return
    try:
        store = front.keeper.store()
        last = store.runs.last()
        if last is None or not last.was_killed:
            return
        place = _place(store.manifest(_whole(store, kept.NEWEST))[0])
    except (StoreError, UsageError):
        return
    ago = tables.age(time.time() - last.beat)
    front.shell.say(
        f"The last run here did not end (last seen {ago} ago{_at(last)}); %restore "
        f"goes on with it at {place}."
    )


def _check_idle(front: Front) -> None:
    job = front.session.alive
    if job is not None:
        raise UsageError(
            f"Run {job.run.number} is alive; finish it with %resume, or give it up "
            "with %resume --abandon, before another one is brought back."
        )


def _check_dead(seen: Seen | None, *, force: bool) -> None:
    """Refuse a run that goes on in another process, and writes to the same files."""
    if seen is None or not seen.is_alive or force:
        return
    of, is_here = seen.record, seen.record.process == os.getpid()
    if not is_here:
        raise UsageError(
            f"Its run is alive: process {of.process} on {of.host}{_at(seen)}. End that "
            "one first; %restore --force goes on from here all the same."
        )


def _whole(store: Store, name: str) -> str:
    """The id of a checkpoint that can be gone on from."""
    if name != kept.NEWEST:
        id = kept.find(store, name)
        why = store.manifest(id)[0].notes.get(STAYS)
        if why is not None:
            raise CannotResume(f"Checkpoint {id} holds variables only: {why}")
        return id
    rows = sorted(store.rows(), key=lambda row: (row.created, row.number))
    for row in reversed(rows):
        if STAYS not in store.manifest(row.id)[0].notes:
            return row.id
    raise UsageError("There is no checkpoint that a run can go on from.")


def _check_like(reader: Reader, *, force: bool) -> None:
    """Say what is not as it was.

    Raises:
        UsageError: Something is not, and nobody has forced it.
    """
    manifest = reader.manifest
    others = [*_other_python(manifest), *_other_torch(manifest), *_other_files(reader)]
    if others and not force:
        raise UsageError(
            f"Not as it was when the run was killed: {'; '.join(others)}. %restore "
            "--force goes on all the same."
        )


def _other_python(manifest: Manifest) -> list[str]:
    """Another version of it makes the code of the run again from its sources."""
    then = str(dict(manifest.notes.get(VERSIONS, {})).get("python", "unknown"))
    here = platform.python_version()
    is_same = then.split(".")[:2] == here.split(".")[:2]
    return [] if is_same else [f"Python was {then}, and is {here}"]


def _other_torch(manifest: Manifest) -> list[str]:
    then = dict(manifest.notes.get(VERSIONS, {})).get("torch")
    here = scene.versions(load=then is not None).get("torch")
    is_same = then == here or then is None
    return [] if is_same else [f"torch was {then}, and is {here}"]


def _other_files(reader: Reader) -> list[str]:
    """Files of modules whose text is none of those that the run has had."""
    files: dict[str, set[str]] = {}
    for name, digest in objects.sources(reader).items():
        if (path := cells.path_of(name)) is not None:
            files.setdefault(path, set()).add(digest)
    gone = [f"{path} is gone" for path in files if not Path(path).is_file()]
    edited = [
        f"{path} was edited"
        for path, digests in files.items()
        if Path(path).is_file() and _digest(path) not in digests
    ]
    return sorted([*gone, *edited])


def _digest(path: str) -> str:
    """Of a file's text, as a unit has it."""
    try:
        with tokenize.open(path) as file:
            return hashlib.sha256(file.read().encode()).hexdigest()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def _script(found: Mapping[str, Any]) -> Script:
    recipe = found.get(CELL)
    if not isinstance(recipe, scripts.Recipe):
        raise CannotResume("The checkpoint does not say which cell its run was of.")
    return scripts.compile_script(
        recipe.text, flags=recipe.flags, interactivity=recipe.interactivity
    )


def _body(found: Mapping[str, Any], names: dict[str, Any], clock: Clock) -> Body:
    def rejoin(rounds: Rounds) -> Any:
        return clock.rejoin(rounds) if rounds.count else rounds.iterator

    if STACK not in found:
        raise CannotResume("The checkpoint holds variables only: %restore --look.")
    made = revival.revived(found[STACK], rejoin)
    names.update(made.values)
    return Body(code=made.code, namespace=names, clock=clock)


def _put_back(names: dict[str, Any], before: dict[str, Any]) -> None:
    for name in names.keys() - before.keys():
        names.pop(name, None)
    names.update(before)


def _take_over(
    names: dict[str, Any], found: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Give the notebook the variables of the run.

    Returns:
        By name: functions and classes as the run has them, and as a cell that was run
        before has defined them here. Those are edits.
    """
    edited: dict[str, tuple[Any, Any]] = {}
    for name, value in found.items():
        if not name.isidentifier():
            continue
        own = before.get(name)
        if isinstance(own, FunctionType | type) and type(own) is type(value):
            edited[name] = (value, own)
        names[name] = value
    return edited


def carry(
    edited: Mapping[str, tuple[Any, Any]],
    names: dict[str, Any],
    redefinitions: Redefinitions,
) -> None:
    """Have a run take up what was defined here before it was brought back."""
    for name, (old, new) in edited.items():
        names[name] = redefinitions.redefined(old, new)


def _tell_of(imports: Imported, manifest: Manifest, front: Front) -> None:
    lost = [
        f"{_plain(path)} ({_plain(why)})"
        for path, why in sorted(manifest.lost.items())
        if path[:1] not in {"<", "?"}
    ]
    if lost:
        front.shell.say(f"Not there any more: {_named(lost)}.")
    if imports.unkept:
        names = _named(imports.unkept)
        front.shell.say(f"Could not be kept, and is as its import made it: {names}.")
    if imports.unmade:
        front.shell.say(
            f"Functions that this version of Python could not make again, and that "
            f"fail when they are called: {' '.join(imports.unmade[:3])}"
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _place(manifest: Manifest) -> str:
    where = _plain(str(manifest.notes.get(WHERE, "")))
    return where or f"the {manifest.number}. of its run"


def _plain(text: str) -> str:
    """Of whoever has written it: short, and with nothing in it that moves a cursor."""
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _at(seen: Seen) -> str:
    return f" at {seen.record.where}" if seen.record.where else ""


def _behind(seen: Seen | None) -> str:
    """What the run is known to have done by the time that it was killed."""
    where = "" if seen is None or not seen.was_killed else _at(seen)
    return where and f".\nIt was last seen{where}: what came since is done again"


def look(front: Front, name: str) -> list[str]:
    """``%restore --look``: bring the variables of a checkpoint, and run nothing.

    Variables of functions that were running are there as ``function.variable``, in the
    dictionary ``restored``.

    Returns:
        The names that the notebook has got.

    Raises:
        UsageError: There is no such checkpoint, or a run is alive.
        Refused, Damaged: As in ``go_on``.
    """
    _check_idle(front)
    store = kept.opened(front)
    id = kept.find(store, name)
    names = front.session.namespace
    found = objects.load(store, id, names)
    plain = {n: x for n, x in found.items() if not n.startswith("<")}
    own = {n: x for n, x in plain.items() if n.isidentifier()}
    names.update(own)
    names["restored"] = {n: x for n, x in plain.items() if n not in own}
    front.shell.say(f"Brought {', '.join(sorted(own)) or 'nothing'} of {id[:8]}.")
    return sorted(own)
