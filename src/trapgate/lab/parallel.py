"""Runs several machines at a time, each in a process of its own, and hands back what each said."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from trapgate.lab.errors import WorkerDied
from trapgate.machine.errors import MachineError
from trapgate.vmm.errors import VmmError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a job raised: an error for the user, or a bug with its traceback."""

    message: str
    traceback: str = ""


def run_parallel(
    work: Callable[[Job], Result], jobs: Sequence[Job], at_once: int, on_change: Callable[[int, bool], None]
) -> list[Result | Failure]:
    """`work(job)` for each, `at_once` at a time, results in the jobs' order. `work` and the jobs must pickle.

    `on_change(number, done)` is called when a job begins and when it ends. Leaving early, by an exception too, ends
    all processes. Raises WorkerDied when a process ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    results: list[Any] = [None] * len(jobs)
    waiting = list(range(len(jobs)))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(sender, work, jobs[number]), daemon=True)
                with _without_ctrl_c():
                    process.start()
                sender.close()
                running[receiver] = number, process
                on_change(number, False)
            ready = wait(list(running))
            for receiver in [end for end in running if end in ready]:
                number, process = running.pop(receiver)
                try:
                    results[number] = receiver.recv()
                except EOFError:
                    process.join()
                    raise WorkerDied(process.exitcode or 0) from None
                process.join()
                on_change(number, True)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return results


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """What is started meanwhile ignores SIGINT from its first moment on: Ctrl-C is this process's affair."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _child(sender: Connection, work: Callable[[Any], Any], job: Any) -> None:
    """In the process."""
    try:
        result = work(job)
    except (MachineError, VmmError) as error:
        result = Failure(str(error))
    except Exception as error:
        result = Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    sender.send(result)
