"""Shows what a run waits for: packages that are fetched, native code that is built on a first run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trapgate.cli.terminal import ProcessConsole

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressDisplay:
    """Call it with a stage's name, how much of it is done and how much there is in all (0: not known).

    On a terminal each stage has a bar that goes when it is done; elsewhere it gets one line, once. While the guest is
    in the middle of a line on the console nothing is shown.
    """

    def __init__(self, console: ProcessConsole, is_terminal: bool) -> None:
        self._console = console
        self._is_terminal = is_terminal
        self._announced: set[str] = set()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if total and done >= total:
            self._finish(stage)
        else:
            self._show(stage, done, total)

    def close(self) -> None:
        """Take the display away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._tasks.clear()

    def _show(self, stage: str, done: int, total: int) -> None:
        self._console.flush()
        if not self._is_terminal:
            if stage not in self._announced:
                self._announced.add(stage)
                print(f"trapgate: {stage}", file=sys.stderr, flush=True)
            return
        if self._bars is None:
            if not self._console.at_line_start:
                return
            self._bars = _make_bars()
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total or None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)

    def _finish(self, stage: str) -> None:
        task = self._tasks.pop(stage, None)
        if task is not None and self._bars is not None:
            self._bars.remove_task(task)
        if not self._tasks:
            self.close()


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("trapgate: {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
