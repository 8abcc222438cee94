"""Runs x87 instructions of ours, with nothing of the machine around them: handlers on a bare state block.

The page with the test's window is entered in the fast data table; every other access is a page fault.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from pathlib import Path

from oracle import areas
from oracle.areas import Case, Outcome, State
from trapgate.arch import layout
from trapgate.arch.registers import CR0_NE, CR0_PE, RAX
from trapgate.cpu import tlb
from trapgate.cpu.mode import DecodeMode
from trapgate.engine import record
from trapgate.engine.cold import WRITE
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handlers import HandlerStore
from trapgate.isa.decode import Decoder
from trapgate.isa.decoded import Decoded

#: No vector, but "the plain Python form was asked for".
PLAIN_PYTHON = 256
PAGE_FAULT = 14
#: The last instruction's address, its operand's, their selectors, and the opcode: instructions only save and load them.
POINTER_FIELDS = (layout.FPU_IP, layout.FPU_DP, layout.FPU_CS, layout.FPU_DS, layout.FPU_OPCODE)
_ARITHMETIC = 0x8D5
_MODE = DecodeMode(
    bits=64,
    stack="64",
    flat=0x3F,
    cpl=0,
    real=False,
    virtual8086=False,
    io_allowed=True,
    time_stamp_allowed=True,
    x87="",
    sse="",
    mmx="",
    wait_nm=False,
)
_FEATURES = frozenset({"FPU", "FPU287", "FPU387", "CMOV", "SSE3", "INTEL8086"})


class WrongExit(Exception):
    """A handler left in a way that the test does not know; the message has the exit code."""


class Runner:
    """Our side of a comparison with the host's x87 unit."""

    def __init__(self, folder: Path) -> None:
        self._store = HandlerStore(CodeFolder(folder))
        self._memory = ctypes.create_string_buffer(tlb.STATE_SIZE + 3 * areas.PAGE)
        address = -(-ctypes.addressof(self._memory) // areas.PAGE) * areas.PAGE
        self._state = address
        self._page = address + tlb.STATE_SIZE
        self._uop = self._page + areas.PAGE
        self._enter = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
            self._store.runtime["enter"]
        )
        access = ctypes.CFUNCTYPE(
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64
        )
        self._slow_access = access(self._page_fault)
        self._decoder = Decoder(_MODE, _FEATURES, frozenset())
        self._bytes = (ctypes.c_char * (tlb.STATE_SIZE + 2 * areas.PAGE)).from_address(address)
        self.view = memoryview(self._bytes).cast("B")
        self.cr0 = CR0_PE | CR0_NE
        self._fill_fast_table()

    def _fill_fast_table(self) -> None:
        table = tlb.DATA.fast
        for entry in range(tlb.FAST_ENTRIES):
            struct.pack_into("<qqqq", self.view, table + entry * tlb.FAST_SIZE, -1, -1, 0, 0)
        entry = areas.DATA >> 12 & (tlb.FAST_ENTRIES - 1)
        fields = (areas.DATA, areas.DATA, self._page - areas.DATA, 0)
        struct.pack_into("<qqqq", self.view, table + entry * tlb.FAST_SIZE, *fields)

    def _page_fault(self, state: int, uop: int, budget: int, linear: int, kind: int) -> None:
        """What the slow path of an access does here: #PF of a user access to a page that is not there."""
        self.put(layout.EXIT_UOP, "q", uop)
        self.put(layout.EXIT_BUDGET, "q", budget)
        size = kind & 0xFF
        address = linear if linear + size <= areas.UNMAPPED or linear >= areas.UNMAPPED else areas.UNMAPPED
        self.put(layout.FAULT_VECTOR, "qqq", PAGE_FAULT, 4 | (kind & WRITE) >> 7, address)

    def put(self, offset: int, format_: str, *values: int) -> None:
        """Write fields of the state block."""
        struct.pack_into("<" + format_, self.view, offset, *values)

    def get(self, offset: int, format_: str) -> int:
        """Read a field of the state block."""
        return int(struct.unpack_from("<" + format_, self.view, offset)[0])

    def prepare(self, codes: Iterable[bytes]) -> None:
        """Compile what these instructions need in one go."""
        self._store.build(form.text() for code in codes for d in self._decode(code) if (form := d.form) is not None)

    def _decode(self, code: bytes) -> list[Decoded]:
        decoded, _ = self._decoder.block(code, 64, False)
        return decoded

    def is_native(self, code: bytes) -> bool:
        """Whether all instructions have a native form."""
        return all(decoded.form is not None for decoded in self._decode(code))

    def run(self, case: Case) -> Outcome:
        """The instructions of a case, without leaving native code between them."""
        self._load(case.state)
        lengths = []
        at = self._uop - self._state
        for decoded in self._decode(case.code):
            assert decoded.form is not None, f"{decoded.instruction} has no native form"
            handler = self._store.address(decoded.form.text())
            self.view[at : at + record.RECORD_SIZE] = struct.pack("<Q24s", handler, decoded.body)
            at += record.RECORD_SIZE
            lengths.append(decoded.length)
        self.view[at : at + record.RECORD_SIZE] = struct.pack("<Q24s", self._store.fixed["stale"], bytes(24))
        code = self._enter(self._state, self._uop, 1 << 32)
        done = (self.get(layout.EXIT_UOP, "q") - self._uop) // record.RECORD_SIZE
        state = self._saved(case, case.state.rip + sum(lengths[:done]))
        if code == record.EXIT_STALE:
            return Outcome(state)
        if code == record.EXIT_FAULT:
            vector = self.get(layout.FAULT_VECTOR, "q")
            if vector != PAGE_FAULT:
                return Outcome(state, vector)
            return Outcome(state, vector, self.get(layout.FAULT_ERROR, "q"), self.get(layout.FAULT_ADDRESS, "Q"))
        if code == record.EXIT_PYTHON_INSIDE:
            return Outcome(state, PLAIN_PYTHON)
        raise WrongExit(
            f"wanted exit {record.EXIT_STALE}, {record.EXIT_FAULT} or {record.EXIT_PYTHON_INSIDE}: got {code}"
        )

    def _load(self, state: State) -> None:
        put = self.put
        put(layout.GPR, "16Q", *state.gpr)
        f = state.rflags
        carry, overflow = f & 1, f >> 11 & 1
        put(layout.FLAG_ZERO, "Q", ~f >> 6 & 1)
        put(layout.FLAG_SIGN, "Q", (f >> 7 & 1) << 63 | (~f >> 2 & 1))
        put(layout.FLAG_CARRY, "Q", carry << 63 | (carry ^ overflow) << 62 | (f >> 4 & 1) << 3)
        put(layout.SYSTEM_FLAGS, "Q", f & ~_ARITHMETIC & ~2)
        put(layout.CR0, "Q", self.cr0)
        put(layout.DTLB, "Q", self._state + tlb.DATA.fast)
        slow_access = ctypes.cast(self._slow_access, ctypes.c_void_p).value
        assert slow_access is not None
        put(layout.SLOW_ACCESS, "Q", slow_access)
        put(layout.MXCSR, "I", areas.MXCSR_RESET)
        control, status, tag = struct.unpack_from("<HHB", state.fx)
        top = status >> 11 & 7
        put(layout.FPU_CONTROL, "HH", control, status & ~0x3800)
        put(layout.FPU_CONTROL_MASKED, "I", control | 0x3F)
        put(layout.FPU_TOP, "I", top)
        put(layout.FPU_VALID, "8B", *(tag >> i & 1 for i in range(8)))
        for i in range(8):
            place, image = layout.fpr((top + i) & 7), areas.FX_ST + 16 * i
            self.view[place : place + 16] = state.fx[image : image + 10] + bytes(6)
        start = areas.WINDOW - areas.DATA + self._page - self._state
        self.view[start : start + areas.WINDOW_SIZE] = state.window

    def _saved(self, case: Case, rip: int) -> State:
        get = self.get
        gpr = [get(layout.GPR + 8 * i, "Q") for i in range(RAX, 16)]
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
            fx[image : image + 10] = self.view[place : place + 10]
        start = areas.WINDOW - areas.DATA + self._page - self._state
        window = bytes(self.view[start : start + areas.WINDOW_SIZE])
        return State(gpr, flags, bytes(fx), window, rip)
