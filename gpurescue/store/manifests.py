"""The manifests of a store: a file for each checkpoint, in a folder of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from gpurescue.errors import Refused, StoreError
from gpurescue.store import format
from gpurescue.store.files import Folder
from gpurescue.store.format import Signed

SUFFIX = ".json"


def ids(folder: Folder) -> list[str]:
    """The checkpoints that are there, in whatever state."""
    names = [name for name in folder.names() if name.endswith(SUFFIX)]
    ids = [name.removesuffix(SUFFIX) for name in names]
    return [id for id in ids if format.ID.fullmatch(id)]


def read(folder: Folder, key: bytes | None, id: str) -> Signed:
    """What a checkpoint consists of.

    Args:
        folder: Of manifests.
        key: What one signs with oneself.
        id: Of the checkpoint; checked.

    Raises:
        Damaged: Its bytes are not those that were written, or it is missing.
        Refused: It is no manifest that this version reads.
    """
    data = folder.read(id + SUFFIX, format.LIMIT)
    try:
        found, is_signed = format.decode(data, key)
    except StoreError as error:
        raise type(error)(f"Checkpoint {id}: {error}.") from error
    if found.id != id:
        raise Refused(f"Checkpoint {id}: its manifest says that it is {found.id}.")
    return found, is_signed


def readable(
    folder: Folder, key: bytes | None, wanted: Iterable[str]
) -> Iterator[Signed]:
    """Those of these that can be read."""
    for id in wanted:
        with contextlib.suppress(StoreError):
            yield read(folder, key, id)


def everything(folder: Folder, key: bytes | None) -> Iterator[Signed]:
    """All that can be read."""
    return readable(folder, key, ids(folder))
