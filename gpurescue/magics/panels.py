"""A suspension on show in a cell: the panel, the stack, and the end of both."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable

from gpurescue.diagnosis import panel
from gpurescue.diagnosis.report import CrashReport, report
from gpurescue.magics.session import Job
from gpurescue.magics.shell import Shell
from gpurescue.recovery.plan import frame_at

_log = logging.getLogger(__name__)


class Panels:
    """The panel of the run that is parked.

    Args:
        shell: Where it is shown.
        label_of: What to call a source.
    """

    def __init__(self, shell: Shell, label_of: Callable[[str], str]) -> None:
        self._shell = shell
        self._label_of = label_of
        self._report: CrashReport | None = None
        self._name = ""

    @property
    def _color(self) -> bool:
        plain = str(self._shell.ip.colors).lower() == "nocolor"
        return not self._shell.is_kernel and sys.stdout.isatty() and not plain

    def show(self, job: Job) -> None:
        """Display the panel; whatever fails here, the run is parked all the same."""
        try:
            self._report = self._describe(job)
            self._name = f"gpurescue-run-{job.run.number}-{job.run.num_suspensions}"
            self._shell.show(
                panel.html(self._report),
                panel.text(self._report, color=self._color),
                name=self._name,
            )
        except Exception:  # noqa: BLE001
            _log.exception("The panel could not be shown.")
            if job.run.suspension is not None:
                self._shell.say(job.run.suspension.traceback_text)

    def close(self, plan: str) -> None:
        """The run goes on: the panel says so, in the cell where it stands."""
        found, self._report = self._report, None
        if found is None or not self._shell.is_kernel:
            return
        try:
            self._shell.show(
                panel.resumed_html(found, plan),
                panel.resumed_text(found, plan),
                name=self._name,
                again=True,
            )
        except Exception:  # noqa: BLE001 - a panel is no reason to stop a run
            _log.exception("The panel could not be closed.")

    def show_frames(self, job: Job, index: int | None = None) -> None:
        """Display the stack, or one frame of it.

        Raises:
            UsageError: There is no such frame.
        """
        held = job.run.suspension
        found = self._describe(job)
        if index is not None and held is not None:
            chosen = frame_at(held, index)
            held = dataclasses.replace(held, frames=(chosen,))
            found = dataclasses.replace(
                report(held, run_number=job.run.number, label_of=self._label_of),
                num_frames=1,
            )
        self._shell.show(
            panel.frames_html(found), panel.frames_text(found, color=self._color)
        )

    def _describe(self, job: Job) -> CrashReport:
        held = job.run.suspension
        assert held is not None
        return report(held, run_number=job.run.number, label_of=self._label_of)
