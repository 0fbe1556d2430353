"""The objects of a checkpoint, made again, and put into those that live."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from gpurescue.errors import Refused
from gpurescue.source import cells, origins
from gpurescue.state.capture import Ready, rebuilt, write_streams
from gpurescue.state.finding import Found, find
from gpurescue.state.rebuilding import Parts, rebuild
from gpurescue.store.jobs import BUFFERS, CODE, GRAPH, SOURCE, STREAMS, SURROUNDINGS
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store

_OWN = {"params"}  # of a parameter group: what its optimizer keeps
_LINKS = {"optimizer", "_schedulers", "lr_lambdas"}  # of a scheduler: to live objects


def load(
    store: Store,
    id: str,
    namespace: dict[str, Any] | None = None,
    *,
    ready: Ready | None = None,
) -> dict[str, Any]:
    """The variables of a checkpoint, as they were, by name.

    What shared memory shares it again, and the checkpoint is not written to.

    Args:
        store: Where it is.
        id: Which one.
        namespace: The globals of functions in it; what they use and is not there is
            put there. Nobody's, if None.
        ready: Called with what is there, and with why code in it could not be made
            by this version of Python, if a run is to go on with it: then random
            streams are put back, iterators of DataLoaders go on, and files are opened,
            as ``capture.rebuilt`` does it.

    Raises:
        Refused: It was not signed with the user's key: to make objects of it would
            run what somebody else has written. Its tensors can be had all the same.
        Damaged: Its bytes are not those that were written.
    """
    manifest, is_signed = store.manifest(id)
    check_signed(id, is_signed)
    reader = Reader(store, manifest)
    first = len(manifest.storages) - int(manifest.notes.get(BUFFERS, 0))
    buffers = [reader.bytes_of(n) for n in range(first, len(manifest.storages))]
    parts = Parts(reader.storage, buffers, reader.tensor, origins.code_of)
    if namespace is not None:
        parts = dataclasses.replace(parts, namespace=namespace)
    adopt_sources(reader)
    if ready is not None:
        return rebuilt(reader.sealed(GRAPH), reader.object(STREAMS), parts, ready)
    return rebuild(reader.sealed(GRAPH), parts)


def surroundings_of(store: Store, id: str) -> bytes:
    """What the run of a checkpoint had changed around itself, as JSON.

    Raises:
        Refused, Damaged: As for ``load``.
    """
    manifest, is_signed = store.manifest(id)
    check_signed(id, is_signed)
    reader = Reader(store, manifest)
    known = SURROUNDINGS in manifest.objects
    return bytes(reader.sealed(SURROUNDINGS)) if known else b"{}"


def check_signed(id: str, is_signed: bool) -> None:
    """Refuse what somebody else has signed, or nobody.

    Raises:
        Refused: It was not signed with the user's key.
    """
    if not is_signed:
        raise Refused(
            f"Checkpoint {id} was not signed with your key, so its objects are not "
            "loaded; its tensors can be restored and exported. If you trust who has "
            "written it, %restore --trust signs it, and runs what is in it."
        )


def sources(reader: Reader) -> dict[str, str]:
    """The SHA-256 of each source that the code of a checkpoint was made from, by name.

    Raises:
        Damaged: The bytes are not those that were written.
    """
    if CODE not in reader.manifest.objects:
        return {}
    found: dict[str, str] = json.loads(bytes(reader.sealed(CODE)))
    return found


def adopt_sources(reader: Reader) -> None:
    """Have the sources of a checkpoint's code: tracebacks and continuations need them.

    Raises:
        Damaged: Their bytes are not those that were written.
    """
    for name, digest in sources(reader).items():
        with contextlib.suppress(SyntaxError):  # of another version of Python
            cells.adopt(name, bytes(reader.sealed(f"{SOURCE}{digest}")).decode())


def make_ready(saved: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    """Give live scalers the tensors that they make when they are used first.

    Args:
        saved: What ``load`` gave.
        live: Variables by the same names.
    """
    for name in saved.keys() & live.keys():
        before, now = find([saved[name]]).scalers, find([live[name]]).scalers
        for old, new in zip(before, now, strict=False):
            if old._scale is not None and new._scale is None:
                new._lazy_init_scale_growth_tracker(new._device)


def put_back(saved: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Give live optimizers, schedulers and scalers their settings back.

    Their tensors are put back by ``restore``.

    Args:
        saved: What ``load`` gave.
        live: Variables by the same names.

    Returns:
        The names of the variables that lead to them.
    """
    done = []
    for name, value in saved.items():
        if name not in live:
            continue
        pairs = list(_pairs(find([value]), find([live[name]])))
        for before, now in pairs:
            _put(before, now)
        if pairs:
            done.append(name)
    return done


def put_streams_back(reader: Reader) -> None:
    """Set the random streams of the process to where they were."""
    if STREAMS in reader.manifest.objects:
        write_streams(reader.object(STREAMS))


def _pairs(saved: Found, live: Found) -> Iterator[tuple[Any, Any]]:
    """What stands for what; nothing where there are not as many of a kind."""
    for kind in ("optimizers", "schedulers", "scalers"):
        before, now = getattr(saved, kind), getattr(live, kind)
        if [type(x) for x in before] == [type(x) for x in now]:
            yield from zip(before, now, strict=True)


def _put(before: Any, now: Any) -> None:
    groups = getattr(before, "param_groups", None)
    if groups is not None:
        for old, new in zip(groups, now.param_groups, strict=False):
            new.update({k: v for k, v in old.items() if k not in _OWN})
        return
    plain = {k: v for k, v in vars(before).items() if k not in _LINKS}
    vars(now).update({k: v for k, v in plain.items() if not _is_tensor(v)})


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
