"""A campaign: cases in a process of their own, watched from here, so that a crash or a hang is one case's failure."""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support import ROOT, child_environment

#: Host seconds without a finished case after which the case counts as a hang. A case takes some milliseconds; the
#: first ones compile handlers.
HANG = 300
#: Cases of one process: then a new one starts, so that nothing grows without end.
CHUNK = 50_000


@dataclass
class Outcome:
    """What came of a campaign: how cases ended, and the failure's report, or an empty text."""

    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    failure: str = ""


def run(
    family: str, seed: int, first: int, count: int, show: Callable[[int], None] = lambda done: None, hang: float = HANG
) -> Outcome:
    """Run cases `first` to `first + count - 1`; `show` is called now and then with how many are done."""
    outcome = Outcome()
    done = 0
    while done < count and not outcome.failure:
        part = min(CHUNK, count - done)
        _run_part(outcome, family, seed, first + done, part, lambda n, done=done: show(done + n), hang)  # type: ignore[misc]
        done += part
    return outcome


def _run_part(
    outcome: Outcome, family: str, seed: int, first: int, count: int, show: Callable[[int], None], hang: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        progress, errors, output = (Path(folder, name) for name in ("progress", "errors", "output"))
        progress.write_bytes(bytes(16))
        arguments = [family, str(seed), str(first), str(count), str(progress)]
        environment = child_environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT / 'tests'}")
        with errors.open("wb") as stderr, output.open("wb") as stdout:
            worker = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", *arguments], stdout=stdout, stderr=stderr, env=environment
            )
            ended = _watch(worker, progress, show, hang)
        if worker.returncode == 0:
            outcome.ends.update(json.loads(output.read_text()))
            return
        case, _ = _read(progress)
        how = ended or f"the process ended with status {worker.returncode}"
        again = f"pytest tests/fuzz -k {family} --fuzz-cases 1 --fuzz-seed {seed} --fuzz-first {case}"
        outcome.failure = (
            f"family {family}, seed {seed}, case {case}: {how}\nagain: {again}\n"
            f"(if it does not fail alone, from case {first} on)\n{errors.read_text(errors='replace')}"
        )


def _watch(worker: subprocess.Popen[bytes], progress: Path, show: Callable[[int], None], hang: float) -> str:
    """Wait for the worker; what it died of when that was a hang."""
    last, since = -1, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(0.5)
        done = _read(progress)[1]
        show(done)
        if worker.returncode is not None:
            return ""
        if done != last:
            last, since = done, time.monotonic()
        elif time.monotonic() - since > hang:
            worker.kill()
            worker.wait()
            return f"no end within {hang:g} s"


def _read(progress: Path) -> tuple[int, int]:
    data = progress.read_bytes()
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")
