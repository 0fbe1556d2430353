"""Checkpoints for other programs: safetensors, ``torch.save``, torch's DCP.

What is written appears whole or not at all, under names that the manifest has. Every
byte is checked before the first one is written.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurescue.errors import UsageError
from gpurescue.store.format import DTYPES, TRANSIENT, Manifest
from gpurescue.store.inert import METADATA
from gpurescue.store.outside import published, watched
from gpurescue.store.packs import Progress
from gpurescue.store.reading import Reader
from gpurescue.store.store import Store

_EXPANDED = 2**30  # bytes that a tensor may have beyond those of its memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to export to.

    Attributes:
        path: A file, or for ``dcp`` a folder, that is going to be made.
        format: One of ``FORMATS``.
        prefix: Only tensors under this name, and their names without it; empty for all.
        overwrite: True to replace what is there.

    Raises:
        UsageError: The format is none of those.
    """

    path: Path
    format: str
    prefix: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise UsageError(f"{self.format!r} is no format: those are {known}.")


def export(
    store: Store, id: str, target: Target, progress: Progress | None = None
) -> list[str]:
    """Write the tensors of a checkpoint in another format.

    Tied tensors stay tied in ``torch``. In ``safetensors`` the first is written, and
    the metadata says for the others which one they are; other tensors that share
    memory are written one by one, as are all in ``dcp``.

    Args:
        store: Where the checkpoint is.
        id: Its name.
        target: What to make.
        progress: Called with numbers of bytes: of each that is read, and written.

    Returns:
        The names that the tensors have there.

    Raises:
        UsageError: It is there already; its folder is not; no tensor has such a name;
            one is a shard, far larger than its memory, or of a dtype that the format
            does not know.
        Damaged: The checkpoint is; nothing was written.
        NotWritten: The disk is full, or broken.
    """
    _check_free(target)
    manifest, _ = store.manifest(id)
    names = selected(manifest, target.prefix)
    if target.format != "torch":  # which writes memory, and how it is looked at
        _check_expanded(manifest, names)
    tensors = _read(Reader(store, manifest), names, progress)
    with published(target.path) as temporary, watched(temporary, progress):
        _WRITERS[target.format](temporary, tensors)
    return list(tensors)


def selected(manifest: Manifest, prefix: str) -> dict[str, str]:
    """Names of tensors, by the names that they have outside.

    What no state dict has is left out: gradients, and buffers that are not persistent.

    Raises:
        UsageError: There are none under that prefix, or one is a shard.
    """
    start = f"{prefix}." if prefix else ""
    hidden = manifest.notes.get(TRANSIENT, ())  # perhaps a stranger's
    hidden = hidden if isinstance(hidden, list) else []
    left_out = {name for name in hidden if isinstance(name, str)}
    kept = [name for name in manifest.tensors if name not in left_out]
    names = {n.removeprefix(start): n for n in kept if n.startswith(start)}
    if not names:
        there = sorted({name.partition(".")[0] for name in kept})
        raise UsageError(
            f"Checkpoint {manifest.id} has no tensors under {prefix!r}. "
            f"There are: {', '.join(there) or 'none'}."
        )
    for name in names.values():
        if whole := manifest.tensors[name].whole:
            raise UsageError(
                f"{name} is a shard of a tensor of shape {whole}, and would look like "
                "a whole one. Choose a prefix without shards."
            )
    return names


def _check_expanded(manifest: Manifest, names: dict[str, str]) -> None:
    """Some bytes can be looked at as a tensor that no memory could hold."""
    for own in names.values():
        tensor = manifest.tensors[own]
        nbytes = math.prod(tensor.shape) * DTYPES[tensor.dtype]
        there = manifest.storages[tensor.storage].nbytes
        if nbytes > max(there, _EXPANDED):
            raise UsageError(
                f"{own} is {there} bytes that are looked at as {nbytes}. "
                "Export it as torch, which writes them once."
            )


def num_bytes(manifest: Manifest, prefix: str) -> int:
    """How much memory the tensors under a prefix have."""
    names = selected(manifest, prefix).values()
    storages = {manifest.tensors[name].storage for name in names}
    return sum(manifest.storages[number].nbytes for number in storages)


def _read(
    reader: Reader, names: dict[str, str], progress: Progress | None
) -> dict[str, Any]:
    tensors, seen = {}, set()
    for name, own in names.items():
        tensors[name] = reader.tensor(own)
        number = reader.manifest.tensors[own].storage
        if progress is not None and number not in seen:
            seen.add(number)
            progress(reader.manifest.storages[number].nbytes)
    return tensors


# -- formats


def _write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    safetensors = safetensors_library()
    metadata = {"format": "pt"}  # transformers looks for it
    kept: dict[tuple[Any, ...], str] = {}
    specs, alive = {}, []
    for name, tensor in tensors.items():
        same = kept.setdefault(_identity(tensor), name)
        if same != name and name not in metadata:
            metadata[name] = same
            continue
        whole = tensor.contiguous()
        alive.append(whole)  # what is written is found by its address
        try:
            specs[name] = safetensors.TensorSpec(
                dtype=str(whole.dtype).removeprefix("torch."),
                shape=list(whole.shape),
                data_ptr=whole.data_ptr(),
                data_len=whole.nbytes,
            )
        except safetensors.SafetensorError as error:
            raise UsageError(
                f"{name} is of {tensor.dtype}, which safetensors does not know. "
                "Export it as torch or dcp."
            ) from error
    if "__metadata__" in specs:
        raise UsageError("safetensors has no tensors of the name '__metadata__'.")
    safetensors.serialize_file(specs, path, metadata=metadata)


def _identity(tensor: Any) -> tuple[Any, ...]:
    """Equal for tensors that are the same memory, seen in the same way."""
    view = tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
    return tensor.untyped_storage()._cdata, *view


def _write_torch(path: Path, tensors: dict[str, Any]) -> None:
    import torch

    torch.save(tensors, path)


def _write_dcp(path: Path, tensors: dict[str, Any]) -> None:
    from torch.distributed.checkpoint import api, state_dict_saver

    with warnings.catch_warnings():  # that there is only one process, which is known
        warnings.filterwarnings("ignore", "torch.distributed is")
        try:
            state_dict_saver.save(tensors, checkpoint_id=path, no_dist=True)
        except api.CheckpointException as error:  # no Exception
            (why, *_) = [*error.failures.values(), (error, None)]
            raise RuntimeError(str(why[0])) from error


_WRITERS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "safetensors": _write_safetensors,
    "torch": _write_torch,
    "dcp": _write_dcp,
}
FORMATS = tuple(_WRITERS)


def safetensors_library() -> Any:
    """The module ``safetensors``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise UsageError(
            "safetensors is not installed: pip install 'gpurescue[export]'."
        ) from error
    return safetensors


def _check_free(target: Target) -> None:
    path = target.path
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}; make it first.")
    if os.path.lexists(path) and not target.overwrite:
        raise UsageError(
            f"{path} is there already; overwrite it, or take another name."
        )
    if path.is_dir() and not (target.format == "dcp" and (path / METADATA).is_file()):
        raise UsageError(f"{path} is a folder of something else. Give another name.")
