"""Regions as machine code: compiled in a thread of their own, and kept on disk by what they were compiled from.

One thread and one collection of machine code serve all processors of this process: equal texts are compiled once.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import queue
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import llvmlite.binding as llvm

from trapgate.engine.compile import CodeFolder, Compiler, assemble

#: Regions that are kept on disk, a few kilobytes each.
MOST_KEPT = 4000
#: What functions are called in a text before they are named after it.
UNNAMED = "@region("


def named(function: str, declarations: Iterable[str]) -> tuple[str, str]:
    """A module of one function, and the function's name, which says what it was compiled from."""
    text = assemble([function], declarations)
    name = "region-" + hashlib.sha256(text.encode()).hexdigest()[:32]
    return text.replace(UNNAMED, f'@"{name}"('), name


@dataclass(frozen=True, slots=True)
class Job:
    """A module to compile, the name of its function, where its code is kept, and whom it is for."""

    text: str
    name: str
    folder: CodeFolder
    customer: object


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of a job: an object file, or what went wrong, which is a bug of ours."""

    code: bytes
    job: Job
    error: Exception | None = None


class RegionCompiler(Compiler):
    """Compiles regions: few passes, because more cost more than they bring (docs/engine.md)."""

    def compile(self, text: str) -> bytes:
        module = llvm.parse_assembly(text)
        builder = llvm.create_pass_builder(self._machine, llvm.create_pipeline_tuning_options(1))
        passes = llvm.create_new_function_pass_manager()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)
        return bytes(self._machine.emit_object(module))


class Workshop:
    """The compiler of this process's regions, and its thread."""

    def __init__(self) -> None:
        self._compiler = RegionCompiler()
        self._jobs: queue.SimpleQueue[tuple[Job, deque[Compiled]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._addresses: dict[str, int] = {}
        self._kept = 0
        #: Bytes of machine code that have been loaded; they stay to the end of the process.
        self.loaded = 0

    def kept(self, job: Job) -> bytes | None:
        """The object file of a job where it was compiled before."""
        return job.folder.read(job.name)

    def now(self, job: Job) -> bytes:
        """The object file of a job, from its folder or compiled while the caller waits."""
        code = self.kept(job)
        if code is None:
            code = self._compiler.compile(job.text)
            job.folder.write(job.name, code)
            self._kept += 1
            if self._kept % 256 == 1:
                job.folder.keep_newest("region-", MOST_KEPT)
        return code

    def give(self, job: Job, ready: deque[Compiled]) -> None:
        """Compile it when its turn comes; it then appears at the end of `ready`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="trapgate regions", daemon=True)
            self._thread.start()
            # The interpreter must not be taken down around LLVM at work.
            atexit.register(self.close)
        self._jobs.put((job, ready))

    def load(self, job: Job, code: bytes) -> int:
        """Make a job's function callable; its address."""
        address = self._addresses.get(job.name)
        if address is None:
            self._compiler.load(code)
            address = self._addresses[job.name] = self._compiler.address(job.name)
            self.loaded += len(code)
        return address

    def close(self) -> None:
        """End the thread, after what it is compiling now; what waits is forgotten."""
        thread, self._thread = self._thread, None
        if thread is not None:
            while not self._jobs.empty():
                self._jobs.get()
            self._jobs.put(None)
            thread.join()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, ready = item
            try:
                ready.append(Compiled(self.now(job), job))
            except Exception as error:
                ready.append(Compiled(b"", job, error))


@functools.cache
def workshop() -> Workshop:
    """This process's workshop."""
    return Workshop()
