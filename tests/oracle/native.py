"""Run instructions on the host's own CPU, thousands per second, faults included."""

from __future__ import annotations

import mmap
import os
import platform
import select
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import areas, native_code
from .areas import Case, Outcome, State

PAGE_FAULT, BREAKPOINT = 14, 3
_TIMEOUT_SECONDS = 120.0
_HEAD = struct.Struct("<24Q")
#: Ends an instruction under test that did not branch: jmp qword ptr [address], and in 32-bit code jmp far [address].
_LEAVE, _LEAVE_FAR = bytes.fromhex("ff2425"), bytes.fromhex("ff2d")


class NativeRunFailed(Exception):
    """The process that ran test cases died or hung; says with which instruction."""


class NativeProcessor:
    """The host's CPU. One worker process, kept for all batches."""

    def __init__(self) -> None:
        if platform.machine() != "x86_64" or sys.platform != "linux":
            raise NativeRunFailed(f"wanted an x86-64 Linux host, got {platform.machine()} {sys.platform}")
        size = areas.SLOT_COUNT * native_code.RECORD_SIZE
        slots_size = areas.SLOT_COUNT * areas.SLOT_SIZE
        self._offsets = (0, size, 2 * size)
        fd = os.memfd_create("trapgate-oracle")
        os.ftruncate(fd, 2 * size + slots_size)
        self._fd = fd
        self._memory = mmap.mmap(fd, 2 * size + slots_size)
        self._worker: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        if self._worker is not None:
            assert self._worker.stdin is not None
            self._worker.stdin.close()
            self._worker.wait()
            self._worker = None
        self._memory.close()
        os.close(self._fd)

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Run every case from its own state; their order does not matter."""
        outcomes: list[Outcome] = []
        for first in range(0, len(cases), areas.SLOT_COUNT):
            outcomes += self._run_batch(cases[first : first + areas.SLOT_COUNT])
        return outcomes

    def _run_batch(self, cases: Sequence[Case]) -> list[Outcome]:
        memory, (inputs, outputs, slots) = self._memory, self._offsets
        for number, case in enumerate(cases):
            state = case.state
            at = inputs + number * native_code.RECORD_SIZE
            head = _HEAD.pack(*state.gpr, state.rflags, state.rip, 0, 0, 0, 0, 0, int(case.bits == 32))
            memory[at : at + len(head)] = head
            at += native_code.FX
            memory[at : at + areas.FX_SIZE + areas.WINDOW_SIZE] = state.fx + state.window
        # Slots are code in the worker's address space: written only here, between two runs.
        for number, case in enumerate(cases):
            slot, start = divmod(case.state.rip - areas.SLOTS, areas.SLOT_SIZE)
            if slot != number or start != areas.SLOT_START:
                raise ValueError(f"case {number} starts at {case.state.rip:#x}, wanted {areas.slot_address(number):#x}")
            at = slots + number * areas.SLOT_SIZE
            memory[at : at + areas.SLOT_SIZE] = slot_bytes(case)
        self._call(cases)
        return [self._outcome(case, outputs + i * native_code.RECORD_SIZE) for i, case in enumerate(cases)]

    def _outcome(self, case: Case, at: int) -> Outcome:
        memory = self._memory
        head = _HEAD.unpack_from(memory, at)
        fx = memory[at + native_code.FX : at + native_code.REGISTERS_SIZE]
        window = memory[at + native_code.REGISTERS_SIZE : at + native_code.RECORD_SIZE]
        signal, vector, error, address, rip = head[18:23]
        after = case.state.rip + len(case.code)
        state = State(list(head[:16]), head[16], fx, window, after)
        if not signal:
            return Outcome(state)
        state.rip = rip
        if vector == BREAKPOINT and case.code[0] not in (areas.INT3, 0xCD):
            state.rip = rip - 1  # a branch arrived at the filling of the slot
            return Outcome(state)
        if vector != PAGE_FAULT:
            address = 0
        return Outcome(state, vector, error, address)

    def _call(self, cases: Sequence[Case]) -> None:
        worker = self._start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(struct.pack("<Q", len(cases)))
        worker.stdin.flush()
        ready, _, _ = select.select([worker.stdout], [], [], _TIMEOUT_SECONDS)
        if ready and len(worker.stdout.read(8)) == 8:
            return
        worker.kill()
        status = worker.wait()
        self._worker = None
        what = f"ended with status {status}" if ready else f"did not answer in {_TIMEOUT_SECONDS} seconds"
        codes = ", ".join(f"{case.code.hex()} {case.text}" for case in cases[:20])
        raise NativeRunFailed(f"the native worker {what}; it ran: {codes}")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._worker is None:
            tests = Path(__file__).resolve().parent.parent
            arguments = [sys.executable, "-m", "oracle.native_worker", str(self._fd), *map(str, self._offsets)]
            self._worker = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._fd,),
                cwd=tests,
            )
        return self._worker


def slot_bytes(case: Case) -> bytes:
    """A slot with its instruction, the way out behind it, and breakpoints around both."""
    leave = _LEAVE + struct.pack("<I", native_code.LEAVE_POINTER)
    if case.bits == 32:
        leave = _LEAVE_FAR + struct.pack("<I", native_code.LEAVE_FAR_POINTER)
    body = bytes([areas.INT3]) * areas.SLOT_START + case.code + leave
    return body.ljust(areas.SLOT_SIZE, bytes([areas.INT3]))
