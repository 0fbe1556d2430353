"""A pack that is written while it is filled in."""

from __future__ import annotations

import threading

import pytest

from gpurescue.store.packs import PIECE
from gpurescue.store.pipe import Pipe
from gpurescue.store.staging import Staging


def piped(nbytes: int, memory: int) -> Pipe:
    staging = Staging()
    staging.reserve(memory)
    return Pipe(staging, nbytes)


def fill(pipe: Pipe, data: bytes, step: int, staging: Staging) -> None:
    for start in range(0, len(data), step):
        end = min(start + step, len(data))
        pipe.room(end)
        place = pipe.address(start) - staging.address
        staging.data[place : place + end - start] = data[start:end]
        pipe.fill(end)
    pipe.finish(None)


@pytest.mark.parametrize("memory", [2 * PIECE, 7 * PIECE])
def test_what_is_written_is_what_was_filled_in(memory) -> None:
    data = bytes(range(256)) * (6 * PIECE // 256) + b"the end" * 512
    staging = Staging()
    staging.reserve(memory)
    pipe = Pipe(staging, len(data))
    assert pipe.is_whole is (memory > len(data))
    filler = threading.Thread(target=fill, args=(pipe, data, PIECE // 4, staging))
    filler.start()
    assert b"".join(bytes(piece) for piece in pipe.pieces()) == data
    filler.join()


def test_an_error_is_raised_before_the_end() -> None:
    pipe = piped(3 * PIECE, 3 * PIECE)
    pipe.fill(2 * PIECE)
    pieces = pipe.pieces()
    next(pieces)
    pipe.finish(ValueError("torn"))
    with pytest.raises(ValueError, match="torn"):
        list(pieces)


def test_the_last_piece_is_not_the_end() -> None:
    """The proof of what was copied may come after it."""
    pipe = piped(PIECE, PIECE)
    pipe.fill(PIECE)
    pieces = pipe.pieces()
    assert len(next(pieces)) == PIECE
    threading.Timer(0.05, pipe.finish, [ValueError("torn")]).start()
    with pytest.raises(ValueError, match="torn"):
        next(pieces)


def test_nobody_waits_for_a_disk_that_is_not_written_to() -> None:
    pipe = piped(5 * PIECE, 2 * PIECE)
    pipe.room(2 * PIECE)
    threading.Timer(0.05, pipe.stop).start()
    with pytest.raises(BrokenPipeError):
        pipe.room(3 * PIECE)
