"""Runs a few SSE or MMX instructions of ours with nothing of the machine around them: handlers on a bare state block.

Every access takes the slow path, which is a Python function here that knows the two pages of the oracle's tests.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from oracle import areas
from oracle.areas import Case, Outcome, State
from trapgate.arch import layout
from trapgate.arch.registers import CR0_NE, CR0_PE, CR4_OSFXSR, GS
from trapgate.cpu import tlb
from trapgate.cpu.mode import DecodeMode
from trapgate.engine import record
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.isa.decode import Decoder
from trapgate.isa.decoded import Decoded

#: No vector, but "the plain Python form was asked for".
PLAIN_PYTHON = 256
GENERAL_PROTECTION, PAGE_FAULT = 13, 14
_ARITHMETIC = 0x8D5
_MODE = DecodeMode(
    bits=64,
    stack="64",
    flat=0x3F,
    cpl=3,
    real=False,
    virtual8086=False,
    io_allowed=False,
    time_stamp_allowed=True,
    x87="",
    sse="",
    mmx="",
    wait_nm=False,
)
_FEATURES = frozenset({"INTEL8086", "X64", "MMX", "FXSR", "SSE", "SSE2", "SSE3", "SSE4A"})
_PAGES = 2 * areas.PAGE
_MOST_INSTRUCTIONS = 16
#: Slow accesses (cpu/access.py): size in the low byte, and whether it is a write.
_WRITE = 0x100


class WrongExit(Exception):
    """A handler left in a way that the test does not know; the message has the exit code."""


class Runner:
    """Our side of a comparison with the host's SSE unit. `folder` keeps the compiled handlers."""

    def __init__(self, folder: Path) -> None:
        self._store = HandlerStore(CodeFolder(folder))
        self._decoder = Decoder(_MODE, _FEATURES, frozenset())
        self._uop = tlb.STATE_SIZE
        self._pages = self._uop + areas.PAGE
        self._memory = mmap.mmap(-1, self._pages + _PAGES)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._memory[self._pages : self._pages + areas.PAGE] = areas.read_only_bytes()
        pointer, integer = ctypes.c_void_p, ctypes.c_uint64
        access = ctypes.CFUNCTYPE(pointer, pointer, pointer, ctypes.c_int64, integer, integer)
        self._slow_access = access(self._access)
        self._commit = ctypes.CFUNCTYPE(None, pointer)(lambda state: None)
        self._enter = ctypes.CFUNCTYPE(ctypes.c_int64, pointer, pointer, ctypes.c_int64)(self._store.runtime["enter"])
        fast = tlb.DATA.fast
        size = tlb.FAST_ENTRIES * tlb.FAST_SIZE
        self._memory[fast : fast + size] = b"\xff" * size
        for offset, function in ((layout.SLOW_ACCESS, self._slow_access), (layout.COMMIT, self._commit)):
            self.put(offset, "Q", ctypes.cast(function, ctypes.c_void_p).value or 0)
        self.put(layout.DTLB, "Q", self._base + fast)
        self.put(layout.CR0, "Q", CR0_PE | CR0_NE)
        self.put(layout.CR4, "Q", CR4_OSFXSR)
        self.put(layout.USER, "Q", 4)
        self.put(layout.segment(GS), "Q", areas.GS_BASE)

    def put(self, offset: int, format_: str, *values: int) -> None:
        """Write fields of the state block."""
        struct.pack_into("<" + format_, self._memory, offset, *values)

    def get(self, offset: int, format_: str) -> int:
        """Read a field of the state block."""
        return int(struct.unpack_from("<" + format_, self._memory, offset)[0])

    def _access(self, state: int, uop: int, budget: int, linear: int, kind: int) -> int | None:
        """The host address of a linear address, or the exception that the access raises."""
        self.put(layout.EXIT_BUDGET, "q", budget)
        first, last = linear, (linear + (kind & 0xFF) - 1) % 2**64
        if not all(x < 1 << 47 or x >= 2**64 - (1 << 47) for x in (first, last)):
            self._fault(uop, GENERAL_PROTECTION, 0, 0)
            return None
        for address in (first, last & ~(areas.PAGE - 1) if last >> 12 != first >> 12 else first):
            page = address & ~(areas.PAGE - 1)
            write = 2 if kind & _WRITE else 0
            if page not in (areas.READ_ONLY, areas.DATA):
                self._fault(uop, PAGE_FAULT, 4 | write, address)
                return None
            if write and page == areas.READ_ONLY:
                self._fault(uop, PAGE_FAULT, 5 | write, address)
                return None
        return self._base + self._pages + linear - areas.READ_ONLY

    def _fault(self, uop: int, vector: int, error: int, address: int) -> None:
        self.put(layout.EXIT_UOP, "Q", uop)
        for offset, value in (
            (layout.FAULT_VECTOR, vector), (layout.FAULT_ERROR, error), (layout.FAULT_ADDRESS, address)
        ):  # fmt: skip
            self.put(offset, "Q", value)

    def decode(self, code: bytes) -> list[Decoded]:
        """All instructions of some code."""
        return self._decoder.block(code, _MOST_INSTRUCTIONS, False)[0]

    def prepare(self, codes: Sequence[bytes]) -> None:
        """Compile in one go what these instructions need."""
        self._store.build(form.text() for code in codes for d in self.decode(code) if (form := d.form) is not None)

    def run(self, case: Case) -> Outcome:
        """A case's instructions, without leaving native code between them."""
        self._load(case.state)
        at, rip = self._uop, case.state.rip
        rips = []
        for decoded in self.decode(case.code):
            assert decoded.form is not None, f"{decoded.instruction} has no native form"
            body = decoded.body
            if decoded.relative is not None:
                body = body[:-8] + struct.pack("<Q", (rip + decoded.relative) % 2**64)
            self.put(at, "Q", self._store.address(decoded.form.text()))
            self._memory[at + 8 : at + record.RECORD_SIZE] = body
            rips.append(rip)
            at += record.RECORD_SIZE
            rip += decoded.length
        self.put(at, "Q", self._store.fixed["stale"])
        code = self._enter(self._base, self._base + self._uop, 1 << 40)
        done = (self.get(layout.EXIT_UOP, "Q") - self._base - self._uop) // record.RECORD_SIZE
        if code == record.EXIT_STALE:
            return Outcome(self._saved(case, rip))
        if code == record.EXIT_FAULT:
            vector, error = self.get(layout.FAULT_VECTOR, "q"), self.get(layout.FAULT_ERROR, "q")
            address = self.get(layout.FAULT_ADDRESS, "Q") if vector == PAGE_FAULT else 0
            return Outcome(self._saved(case, rips[done]), vector, max(error, 0), address)
        if code == record.EXIT_PYTHON_INSIDE:
            return Outcome(self._saved(case, rips[done]), PLAIN_PYTHON)
        raise WrongExit(
            f"wanted exit {record.EXIT_STALE}, {record.EXIT_FAULT} or {record.EXIT_PYTHON_INSIDE}: got {code}"
        )

    def _window(self) -> slice:
        start = self._pages + areas.WINDOW - areas.READ_ONLY
        return slice(start, start + areas.WINDOW_SIZE)

    def _load(self, state: State) -> None:
        put = self.put
        put(layout.GPR, "16Q", *state.gpr)
        f = state.rflags
        carry, overflow = f & 1, f >> 11 & 1
        put(layout.FLAG_ZERO, "Q", ~f >> 6 & 1)
        put(layout.FLAG_SIGN, "Q", (f >> 7 & 1) << 63 | (~f >> 2 & 1))
        put(layout.FLAG_CARRY, "Q", carry << 63 | (carry ^ overflow) << 62 | (f >> 4 & 1) << 3)
        put(layout.SYSTEM_FLAGS, "Q", f & ~_ARITHMETIC & ~2)
        control, status, tag = struct.unpack_from("<HHB", state.fx)
        control = control & 0x1F7F | 0x40
        top = status >> 11 & 7
        put(layout.FPU_CONTROL, "HH", control, status & ~0x3800)
        put(layout.FPU_CONTROL_MASKED, "I", control | 0x3F)
        put(layout.FPU_TOP, "I", top)
        put(layout.FPU_VALID, "8B", *(tag >> i & 1 for i in range(8)))
        for i in range(8):
            place, image = layout.fpr((top + i) & 7), areas.FX_ST + 16 * i
            self._memory[place : place + 10] = state.fx[image : image + 10]
        self._memory[layout.XMM : layout.XMM + 256] = state.fx[areas.FX_XMM : areas.FX_XMM + 256]
        put(layout.MXCSR, "I", struct.unpack_from("<I", state.fx, areas.FX_MXCSR)[0])
        self._memory[self._window()] = state.window

    def _saved(self, case: Case, rip: int) -> State:
        get = self.get
        gpr = [get(layout.GPR + 8 * i, "Q") for i in range(16)]
        zero, sign, carry = (get(x, "Q") for x in (layout.FLAG_ZERO, layout.FLAG_SIGN, layout.FLAG_CARRY))
        flags = get(layout.SYSTEM_FLAGS, "Q") | 2 | carry >> 63 | (zero == 0) << 6 | sign >> 63 << 7
        flags |= (carry >> 3 & 1) << 4 | (carry >> 63 ^ carry >> 62 & 1) << 11
        flags |= (1 - (sign & 0xFF).bit_count() % 2) << 2
        fx = bytearray(case.state.fx)
        top = get(layout.FPU_TOP, "I")
        tag = sum(get(layout.FPU_VALID + i, "B") << i for i in range(8))
        status = get(layout.FPU_STATUS, "H") | top << 11
        struct.pack_into("<HHB", fx, 0, get(layout.FPU_CONTROL, "H"), status, tag)
        for i in range(8):
            place, image = layout.fpr((top + i) & 7), areas.FX_ST + 16 * i
            fx[image : image + 10] = self._memory[place : place + 10]
        fx[areas.FX_XMM : areas.FX_XMM + 256] = self._memory[layout.XMM : layout.XMM + 256]
        struct.pack_into("<I", fx, areas.FX_MXCSR, get(layout.MXCSR, "I"))
        return State(gpr, flags, bytes(fx), bytes(self._memory[self._window()]), rip)
