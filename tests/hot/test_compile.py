"""What LLVM must be able to compile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from errno import EAGAIN
from pathlib import Path
from signal import SIGKILL

import pytest

from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.hot import compile as compile_module
from trapgate.engine.hot.compile import IMPOSSIBLE, Compiled, Job, Workshop, named

from .programs import Program
from .random_runs import Case, compare_case
from .waiting import wait_for

#: Bytes of registers written one after the other, in a loop: found by random programs (seed 3, case 246).
BYTES = bytes.fromhex(
    """
    bc 00 f0 03 00 bb fd 0f 01 00 be c0 0f 01 00 bf f4 2f 01 00 11 c2 0f 2f 4e e2 66 c1 4c 4b 00 1f 9e 0f ba f2 02 21
    d1 e8 0f 00 00 00 8d 4f 00 83 c6 02 83 e9 01 0f 8c 52 00 00 00 0f bc d0 65 ff 47 08 0f 80 f3 ff ff ff 88 57 f8 02
    a6 08 f0 ff ff e9 00 00 00 00 0f a4 53 04 01 ac f7 5b f8 0f 44 57 f8 66 0f bb d2 66 c7 43 20 7f 00 68 6d 90 00 00
    c2 08 00 81 6c 8e 00 c0 47 8c 43 81 ca 80 ff ff ff 32 47 18 5a 0f 84 73 ff ff ff ff 76 08 58 8b 53 00 f5 e9 66 ff
    ff ff
    """
)
LABELS = [0x8FE0, 0x900C, 0x901B, 0x9028, 0x9036, 0x9055, 0x906D]


def test_bytes_of_a_register_written_one_after_the_other(handlers: HandlerStore) -> None:
    """LLVM's register coalescer failed an assertion, and ended the process, on a region of this program."""
    case = Case("two-level", Program(0x8FE0, bytearray(BYTES), LABELS), "3 246")
    assert compare_case(case, handlers, always=True) > 0


def _job(folder: Path, number: int) -> Job:
    function = f"define preserve_nonecc i64 @region(ptr %state, ptr %uop, i64 %budget) #0 {{\n ret i64 {number}\n}}"
    text, name = named(function, ())
    return Job(text, name, CodeFolder(folder), None)


def _wait(ready: deque[Compiled], count: int) -> list[Compiled]:
    wait_for(lambda: len(ready) >= count)
    return list(ready)


def test_regions_are_compiled_in_another_process_and_kept(tmp_path: Path) -> None:
    shop: Workshop = Workshop()
    ready: deque[Compiled] = deque()
    for number in (1, 2):
        shop.give(_job(tmp_path, number), ready)
    first, second = _wait(ready, 2)
    for compiled in (first, second):
        assert compiled.code.startswith(b"\x7fELF")
        assert shop.kept(compiled.job) == compiled.code
        assert shop.load(compiled.job, compiled.code) > 0
    shop.close()
    other = Workshop()
    other.start = lambda: (_ for _ in ()).throw(AssertionError("it was kept"))
    other.give(_job(tmp_path, 1), again := deque())
    assert _wait(again, 1)[0].code == first.code
    other.close()


def test_a_compiler_that_ends_costs_a_region_and_nothing_else(tmp_path: Path) -> None:
    """As when LLVM fails an assertion: that region is never tried again, the next one has a new process."""
    shop = Workshop()
    usual = shop.start
    dying = [sys.executable, "-c", "import sys; sys.stdin.buffer.read(8)"]
    shop.start = lambda: subprocess.Popen(dying, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ready: deque[Compiled] = deque()
    shop.give(_job(tmp_path, 3), ready)
    assert _wait(ready, 1)[0].code == IMPOSSIBLE
    shop.start = usual
    shop.give(_job(tmp_path, 3), ready)
    shop.give(_job(tmp_path, 4), ready)
    _, same, other = _wait(ready, 3)
    assert same.code == IMPOSSIBLE
    assert other.code.startswith(b"\x7fELF")
    shop.close()


def _dying_of(signal: int) -> subprocess.Popen[bytes]:
    code = f"import os, sys; sys.stdin.buffer.read(8); os.kill(os.getpid(), {signal})"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_compiler_that_the_host_ends_or_refuses_is_tried_again(tmp_path: Path) -> None:
    """The region stays cold in this run; a later one compiles it."""
    shop = Workshop()
    usual = shop.start
    shop.start = lambda: _dying_of(SIGKILL)
    ready: deque[Compiled] = deque()
    shop.give(_job(tmp_path, 5), ready)
    assert _wait(ready, 1)[0].code == IMPOSSIBLE

    def refused() -> subprocess.Popen[bytes]:
        raise BlockingIOError(EAGAIN, "no more processes")

    shop.start = refused
    shop.give(_job(tmp_path, 5), ready)
    assert _wait(ready, 2)[1].code == IMPOSSIBLE
    assert shop.kept(_job(tmp_path, 5)) is None
    shop.start = usual
    shop.give(_job(tmp_path, 5), ready)
    assert _wait(ready, 3)[2].code.startswith(b"\x7fELF")
    shop.close()


@pytest.mark.parametrize(("seconds", "patience"), [(0.2, 60), (60, 0.05)])
def test_what_is_being_compiled_at_the_end_is_kept_if_that_takes_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, patience: float
) -> None:
    monkeypatch.setattr(compile_module, "PATIENCE", patience)
    code = (
        f"import sys, time; sys.stdin.buffer.read(8); time.sleep({seconds}); "
        "sys.stdout.buffer.write(bytes([4, 0, 0, 0]) + b'code'); sys.stdout.flush()"
    )
    shop = Workshop()
    shop.start = lambda: subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    job, waits = _job(tmp_path, 6), _job(tmp_path, 7)
    shop.give(job, deque())
    shop.give(waits, deque())
    wait_for(lambda: shop._worker is not None)
    begin = time.monotonic()
    shop.close()
    assert time.monotonic() - begin < 30
    assert shop.kept(job) == (b"code" if patience > seconds else None)
    assert shop.kept(waits) is None
