"""A real ipykernel, driven as a front end drives it."""

from __future__ import annotations

import os
import queue
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]
# Its file is the user's, and kernels side by side wait for each other's locks.
_NO_HISTORY = "--HistoryManager.hist_file=:memory:"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """What one cell sent back, in order; ``strays`` went to other cells."""

    reply: dict[str, Any] = field(default_factory=dict)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    strays: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0

    def stream(self, name: str) -> str:
        found = [c for kind, c in self.messages if kind == "stream"]
        return _ANSI.sub("", "".join(c["text"] for c in found if c["name"] == name))

    @property
    def stdout(self) -> str:
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        return self.stream("stderr")

    def data(self, kind: str, mime: str = "text/plain") -> list[str]:
        found = [c["data"] for k, c in self.messages if k == kind]
        return [d[mime] for d in found if mime in d]

    @property
    def displays(self) -> list[str]:
        return self.data("display_data")

    @property
    def value(self) -> str | None:
        found = self.data("execute_result")
        return found[-1] if found else None

    @property
    def is_ok(self) -> bool:
        return self.reply.get("status") == "ok"

    @property
    def error(self) -> str:
        return str(self.reply.get("ename", ""))

    @property
    def traceback(self) -> str:
        return _ANSI.sub("", "\n".join(self.reply.get("traceback", [])))

    @property
    def panels(self) -> list[str]:
        return [text for text in self.displays if "is alive, waiting" in text]


class Notebook:
    """One kernel and the client that types into it."""

    def __init__(self, folder: Path | None = None) -> None:
        path = os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
        )
        self.manager = KernelManager(kernel_name="python3")
        env = {**os.environ, "PYTHONPATH": path}
        self.manager.start_kernel(
            env=env, cwd=str(folder) if folder else None, extra_arguments=[_NO_HISTORY]
        )
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __enter__(self) -> Notebook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, code: str, *, cell: str | None = None, stdin: bool = True) -> str:
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": stdin,
            "stop_on_error": False,
        }
        metadata = {"cellId": cell} if cell else {}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def run(
        self,
        code: str,
        *,
        cell: str | None = None,
        stdin: bool = True,
        answers: tuple[str, ...] = (),
        timeout: float = 20,
    ) -> Result:
        """Run a cell and wait for it."""
        return self.collect(
            self.send(code, cell=cell, stdin=stdin), answers=answers, timeout=timeout
        )

    def collect(
        self,
        request: str,
        *,
        answers: tuple[str, ...] = (),
        timeout: float = 20,
        until: Callable[[Result], bool] | None = None,
    ) -> Result:
        """Gather what a cell sends, until it is done or ``until`` says so."""
        result, began, is_idle = Result(), time.monotonic(), False
        waiting = list(answers)
        while not (is_idle and result.reply):
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{request}: {result}")
            self._answer(waiting)
            is_idle = self._read(request, result) or is_idle
            reply = _get(self.client.get_shell_msg, 0 if not is_idle else 0.05)
            if reply and reply["parent_header"].get("msg_id") == request:
                result.reply = reply["content"]
            if until is not None and until(result):
                break
        result.seconds = time.monotonic() - began
        return result

    def _answer(self, waiting: list[str]) -> None:
        asked = _get(self.client.get_stdin_msg, 0)
        if asked and asked["msg_type"] == "input_request":
            self.client.input(waiting.pop(0) if waiting else "q")

    def _read(self, request: str, result: Result) -> bool:
        message = _get(self.client.get_iopub_msg, 0.02)
        if message is None:
            return False
        kind, content = message["msg_type"], message["content"]
        is_mine = message["parent_header"].get("msg_id") == request
        if kind == "status":
            return bool(is_mine and content["execution_state"] == "idle")
        if kind != "execute_input":
            (result.messages if is_mine else result.strays).append((kind, content))
        return False

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def _get(read: Callable[..., Any], timeout: float) -> Any:
    try:
        return read(timeout=timeout)
    except queue.Empty:
        return None
