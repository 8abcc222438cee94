"""Regions as machine code: compiled in a process of their own, and kept on disk by what they were compiled from.

One such process, with a thread that waits for it, and one collection of machine code serve all processors of this
process: equal texts are compiled once. LLVM sometimes fails an assertion, which ends the process that it is in; the
region is then never compiled again.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trapgate
from trapgate.engine.compile import CodeFolder, assemble
from trapgate.engine.hot.passes import VERSION, RegionCompiler
from trapgate.engine.hot.worker import LENGTH

#: Regions that are kept on disk, a few kilobytes each.
MOST_KEPT = 4000
#: What functions are called in a text before they are named after it.
UNNAMED = "region"
#: The code of a region that LLVM cannot compile.
IMPOSSIBLE = b""
#: Seconds that the end of this process waits for a region.
PATIENCE = 0.5
#: How the process ends when it is not LLVM's doing: out of memory, a container that stops.
ENDED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)


def named(function: str, declarations: Iterable[str]) -> tuple[str, str]:
    """A module of one function, and the function's name, which says what it was compiled from."""
    text = assemble([function], declarations)
    name = "region-" + hashlib.sha256(f"{VERSION}\n{text}".encode()).hexdigest()[:32]
    return text.replace(f"@{UNNAMED}(", f'@"{name}"('), name


@dataclass(frozen=True, slots=True)
class Job:
    """A module to compile, the name of its function, where its code is kept, and whom it is for."""

    text: str
    name: str
    folder: CodeFolder
    customer: object


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of a job: an object file, or IMPOSSIBLE."""

    code: bytes
    job: Job


class Workshop:
    """The compiler of this process's regions."""

    def __init__(self) -> None:
        self._compiler = RegionCompiler()
        self._jobs: queue.SimpleQueue[tuple[Job, deque[Compiled]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._addresses: dict[str, int] = {}
        self._kept = 0
        self.start = start_worker

    def kept(self, job: Job) -> bytes | None:
        """The object file of a job where it was compiled before."""
        return job.folder.read(job.name)

    def now(self, job: Job) -> bytes:
        """The object file of a job, from its folder or compiled in this process while the caller waits."""
        code = self.kept(job)
        if code is None:
            code = self._compiler.compile(job.text)
            self._keep(job, code)
        return code

    def give(self, job: Job, ready: deque[Compiled]) -> None:
        """Compile it when its turn comes; it then appears at the end of `ready`."""
        if self._thread is None:
            self._killed = False
            self._thread = threading.Thread(target=self._work, name="trapgate regions", daemon=True)
            self._thread.start()
            atexit.register(self.close)
        self._jobs.put((job, ready))

    def load(self, job: Job, code: bytes) -> int:
        """Make a job's function callable; its address."""
        address = self._addresses.get(job.name)
        if address is None:
            self._compiler.load(code)
            address = self._addresses[job.name] = self._compiler.address(job.name)
        return address

    def close(self) -> None:
        """End the thread and the process; what waits is forgotten.

        What is being compiled is finished and kept, if it takes no longer than PATIENCE: else short runs that are made
        again and again would begin it each time, and never have it.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            while not self._jobs.empty():
                self._jobs.get()
            self._jobs.put(None)
            thread.join(PATIENCE)
            worker = self._worker
            if thread.is_alive() and worker is not None:
                self._killed = True
                worker.kill()
            thread.join()

    def _keep(self, job: Job, code: bytes) -> None:
        job.folder.write(job.name, code)
        self._kept += 1
        if self._kept % 256 == 1:
            job.folder.keep_newest("region-", MOST_KEPT)

    # -- the thread

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, ready = item
            code = self.kept(job)
            if code is None:
                code = self._outside(job.text)
                if self._killed:
                    break  # in the middle of it
                if code is not None:
                    self._keep(job, code)
            ready.append(Compiled(code or IMPOSSIBLE, job))
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def _outside(self, text: str) -> bytes | None:
        """Compile in the other process, which is started where there is none.

        None: it could not be started, or the host ended it; another run may have more luck.
        """
        if self._worker is None:
            try:
                self._worker = self.start()
            except OSError:
                return None
        worker, data = self._worker, text.encode()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(LENGTH.pack(len(data)) + data)
            worker.stdin.flush()
            head = worker.stdout.read(LENGTH.size)
            code = worker.stdout.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else IMPOSSIBLE
        except OSError:
            code = IMPOSSIBLE
        if not code:
            worker.kill()
            worker.communicate()
            self._worker = None
            if worker.returncode in ENDED_FROM_OUTSIDE:
                return None
        return code


def start_worker() -> subprocess.Popen[bytes]:
    """A process that compiles: in a session of its own, so that Ctrl-C is not for it.

    What LLVM says at its end is not for the user.
    """
    root = str(Path(trapgate.__file__).resolve().parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "trapgate.engine.hot.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


@functools.cache
def workshop() -> Workshop:
    """This process's workshop."""
    return Workshop()
