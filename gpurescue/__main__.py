"""``python -m gpurescue``: what one does with checkpoints outside of a notebook."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import os
import secrets
import sqlite3
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpurescue.diagnosis.panel.escape import one_line
from gpurescue.errors import RescueError, UsageError
from gpurescue.store import exporting, importing, tables
from gpurescue.store.bars import bar
from gpurescue.store.keys import key
from gpurescue.store.store import Store
from gpurescue.store.tables import size

_FORMATS = {".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", "": "dcp"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a command has to say.

    Attributes:
        facts: To a machine.
        lines: To a person; names in them may be hostile.
        is_bad: True if something is damaged.
    """

    facts: Any
    lines: Sequence[str] = field(default_factory=list)
    is_bad: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its words; those of the process if None.

    Returns:
        The exit status: 0; 1 if something is damaged or refused; 2 for wrong usage.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "export" and args.format is None:
        args.format = _FORMATS.get(args.path.suffix)
        if args.format is None:
            parser.error(f"say --format: {args.path.name!r} does not tell")
    try:
        answer = args.run_command(args)
        _say(answer, as_json=args.json)
    except BrokenPipeError:  # nobody reads on: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RescueError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"gpurescue: {one_line(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return int(answer.is_bad)


def _say(answer: _Answer, *, as_json: bool) -> None:
    lines = [one_line(line) for line in answer.lines]
    if as_json:  # ASCII, of which one character is a control that JSON lets be
        lines = [json.dumps(answer.facts).replace("\x7f", "\\u007f")]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    about = "Look after the checkpoints of a store, outside of a notebook."
    parser = argparse.ArgumentParser("python -m gpurescue", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[Any], _Answer], help: str) -> Any:
        made = commands.add_parser(name, help=help, description=help)
        made.add_argument(
            "store",
            metavar="STORE",
            nargs="?",
            type=Path,
            default=Path(".gpurescue"),
            help="the folder of checkpoints; .gpurescue if it is left out",
        )
        made.add_argument("--json", action="store_true", help="answer in JSON")
        made.set_defaults(run_command=run)
        return made

    add("checkpoints", _checkpoints, "list the checkpoints")
    add("verify", _verify, "read all, and say what is damaged")
    add("gc", _gc, "remove what no checkpoint needs").add_argument(
        "--dry-run", action="store_true", help="only say what would be removed"
    )
    _add_exchange(add)
    for name, run, help in (
        ("pin", _pin, "keep a checkpoint for good"),
        ("unpin", _pin, "no longer keep a checkpoint for good"),
        ("remove", _remove, "remove a checkpoint; `gc` then frees its room"),
    ):
        add(name, run, help).add_argument("id", metavar="ID", help="of the checkpoint")
    return parser


def _add_exchange(add: Callable[..., Any]) -> None:
    out = add("export", _export, "write the tensors of a checkpoint for other programs")
    out.add_argument("id", metavar="ID", help="of the checkpoint")
    out.add_argument(
        "path", metavar="PATH", type=Path, help="the file or folder to make"
    )
    out.add_argument(
        "--format",
        choices=exporting.FORMATS,
        help="if PATH does not tell: .safetensors, .pt and .pth do, a name without "
        "an ending is a folder of torch.distributed.checkpoint (dcp)",
    )
    out.add_argument(
        "--prefix", default="", help="only what is under this name, such as `model`"
    )
    out.add_argument("--overwrite", action="store_true", help="replace what is there")
    into = add("import", _import, "make a checkpoint of such a file or folder")
    into.add_argument("path", metavar="PATH", type=Path, help="what to read")
    into.add_argument("--prefix", default="", help="put before each name")
    into.add_argument("--run", metavar="ID", help="of the run; a new one if left out")


# -- commands


def _checkpoints(args: Any) -> _Answer:
    store = Store(args.store, key=key())
    with bar("checkpoints", len(store.rows()), "") as progress:
        found = tables.lines(store, progress)
    said = tables.text(found).splitlines() if found else ["There are no checkpoints."]
    return _Answer([dataclasses.asdict(line) for line in found], said)


def _verify(args: Any) -> _Answer:
    store = Store(args.store, key=key())
    rows = store.rows()
    with bar("verify", sum(row.added for row in rows)) as progress:
        wrong = store.verify(progress)
    said = [f"{id}: {what}" for id, found in wrong.items() for what in found]
    if not wrong:
        said = [f"{_count(len(rows), 'checkpoint')}, and nothing is damaged."]
    return _Answer({"damaged": wrong}, said, is_bad=bool(wrong))


def _gc(args: Any) -> _Answer:
    with bar("gc", None) as progress:
        gone = Store(args.store, key=key()).gc(dry_run=args.dry_run, progress=progress)
    total, what = sum(gone.values()), "to be" if args.dry_run else "are"
    said = [f"{size(nbytes):>10}  {name}" for name, nbytes in gone.items()]
    said.append(f"{_count(len(gone), 'file')}, {size(total)}, {what} removed.")
    if not gone:
        said = [
            "There is nothing to remove; what is an hour old or less is left alone."
        ]
    return _Answer({"removed": gone, "nbytes": total, "dry_run": args.dry_run}, said)


def _export(args: Any) -> _Answer:
    store = Store(args.store, key=key())
    target = exporting.Target(
        path=args.path,
        format=args.format,
        prefix=args.prefix,
        overwrite=args.overwrite,
    )
    nbytes = exporting.num_bytes(store.manifest(args.id)[0], args.prefix)
    with bar("export", 2 * nbytes) as progress:
        names = exporting.export(store, args.id, target, progress)
    said = [f"{args.path} has {_count(len(names), 'tensor')}, {size(nbytes)}."]
    return _Answer({"path": str(args.path), "tensors": names, "nbytes": nbytes}, said)


def _import(args: Any) -> _Answer:
    if not args.path.exists():  # before a store is made
        raise UsageError(f"There is no {args.path}.")
    run = args.run or secrets.token_hex(8)
    found = [args.path, *(args.path.iterdir() if args.path.is_dir() else ())]
    nbytes = sum(path.stat().st_size for path in found if path.is_file())
    store = Store(args.store, key=key(create=True), create=True)
    with bar("import", 2 * nbytes) as progress:
        made = importing.import_(
            store, args.path, run=run, prefix=args.prefix, progress=progress
        )
    count = _count(len(made.tensors), "tensor")
    said = [f"Checkpoint {made.id} of run {run} has {count}."]
    said += [f"left out: {name}, a {kind}" for name, kind in made.lost.items()]
    facts = {"id": made.id, "run": run, "tensors": list(made.tensors)}
    return _Answer({**facts, "lost": made.lost}, said)


def _pin(args: Any) -> _Answer:
    is_pinned = args.command == "pin"
    _with(args).pin(args.id, pinned=is_pinned)
    what = "is kept for good" if is_pinned else "is no longer kept for good"
    return _Answer({"id": args.id, "pinned": is_pinned}, [f"{args.id} {what}."])


def _remove(args: Any) -> _Answer:
    _with(args).remove([args.id])
    said = f"{args.id} is removed; `gc` frees its room."
    return _Answer({"id": args.id, "removed": True}, [said])


def _with(args: Any) -> Store:
    store = Store(args.store, key=key())
    if not store.has(args.id):
        raise UsageError(f"{args.store} has no checkpoint {args.id}.")
    return store


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of torch: that it has experimental parts
    logging.disable(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know all letters
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
