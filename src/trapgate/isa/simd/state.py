"""MXCSR, and the 512-byte image of the x87, MMX and SSE state (APM vol. 2, 11.4.4; vol. 5, FXSAVE, FXRSTOR)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSFXSR, EFER_FFXSR
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.simd.common import GENERAL_PROTECTION, STATUS_ES, require_alignment

#: Bits of MXCSR that exist (APM vol. 1, 4.2.2), without bit 17, misaligned-exception mask: no profile has it.
MXCSR_BITS = 0xFFFF
#: Exception masks of MXCSR, bits 12:7; the host's register always has them set.
MXCSR_MASKS = 0x1F80

# Offsets in the image (APM vol. 2, figures 11-8 and 11-9).
TAG, OPCODE, INSTRUCTION_POINTER, DATA_POINTER, MXCSR, X87_REGISTERS, XMM_REGISTERS = 4, 6, 8, 16, 24, 32, 160
_LAST_BLOCK = 496

# x87 control and status words (APM vol. 1, 6.2).
CONTROL_BITS, CONTROL_ALWAYS_ONE, CONTROL_MASKS = 0x1F7F, 0x40, 0x3F
STATUS_TOP_SHIFT, STATUS_BUSY = 11, 1 << 15
#: Exception flags and condition codes: the status word without TOP, ES and B.
STATUS_PLAIN = 0x477F


def read_mxcsr(c: Context) -> Value:
    """The guest's MXCSR (32 bits): the flags are in the host's register, the masks in the state."""
    c.emit.intrinsic_void("x86.sse.stmxcsr", [c.state_pointer(layout.FPU_SCRATCH)], "")
    live = c.field(layout.FPU_SCRATCH, 32) & (MXCSR_BITS & ~MXCSR_MASKS)
    return live | (c.field(layout.MXCSR, 32) & MXCSR_MASKS)


def check_mxcsr(c: Context, value: Value) -> None:
    """#GP(0) for reserved bits. Where an exception is or becomes unmasked, the mode of code changes: Python's work."""
    c.fault_if((value & ~MXCSR_BITS).ne(0), GENERAL_PROTECTION, 0)
    c.plain_python_if((value & c.field(layout.MXCSR, 32) & MXCSR_MASKS).ne(MXCSR_MASKS))


def load_mxcsr(c: Context, value: Value) -> None:
    """Make `value` (checked) the guest's MXCSR, in the state and in the host's register."""
    c.set_field(layout.MXCSR, value)
    c.set_field(layout.FPU_SCRATCH, value | MXCSR_MASKS)
    c.emit.intrinsic_void("x86.sse.ldmxcsr", [c.state_pointer(layout.FPU_SCRATCH)], "")


@semantics("ldmxcsr")
def ldmxcsr(c: Context, source: Operand) -> None:
    value = source.read()
    check_mxcsr(c, value)
    load_mxcsr(c, value)


@semantics("stmxcsr")
def stmxcsr(c: Context, destination: Operand) -> None:
    destination.write(read_mxcsr(c))


class _Image:
    """The 512 bytes at a memory operand, in pieces that do not cross a 16-byte boundary."""

    def __init__(self, c: Context, operand: Operand) -> None:
        require_alignment(c, operand)
        self._c = c
        self._operand = operand
        self._bits = operand.address().width

    def read(self, offset: Value | int) -> Value:
        """16 bytes."""
        return self._at(offset, 128).read()

    def write(self, offset: Value | int, value: Value) -> None:
        """As many bytes as `value` has."""
        self._at(offset, value.width).write(value)

    def _at(self, offset: Value | int, width: int) -> Operand:
        delta = self._c.emit.constant(offset, self._bits) if isinstance(offset, int) else offset.resize(self._bits)
        piece = self._operand.displaced(delta)
        piece.width = width
        return piece


def _sse_included(c: Context) -> tuple[Value, Value]:
    """(is MXCSR part of the image?, are the XMM registers?)

    Without CR4.OSFXSR neither is; with EFER.FFXSR the registers are left out in 64-bit mode at CPL 0.
    """
    mxcsr = (c.field(layout.CR4) & CR4_OSFXSR).ne(0)
    if c.bits in (16, 32):
        return mxcsr, mxcsr
    fast = (c.field(layout.EFER) & EFER_FFXSR).ne(0) & c.field(layout.USER).eq(0)
    return mxcsr, mxcsr & (fast ^ 1)


def _xmm_count(c: Context) -> int:
    """Only 64-bit mode has XMM8 to XMM15."""
    return 8 if c.bits in (16, 32) else 16


def _x87_place(c: Context, top: Value, i: Value) -> Value:
    """Where ST(i) is (i is 64 bits wide)."""
    physical = (top.zext(64) + i) & 7
    return c.state_pointer((physical << 4) + layout.FPR)


def _save(c: Context, destination: Operand, wide_pointers: bool) -> None:
    image = _Image(c, destination)
    e = c.emit
    has_mxcsr, has_xmm = _sse_included(c)
    # From the end, so that a fault in the second page comes before anything is written to the first.
    with e.when(has_xmm):
        left = e.variable(_xmm_count(c))
        with e.loop() as loop:
            loop.break_if(left.get().eq(0))
            i = left.get() - 1
            left.set(i)
            image.write((i << 4) + XMM_REGISTERS, e.load(128, c.state_pointer((i << 4) + layout.XMM), 16))
    top, status = c.field(layout.FPU_TOP, 32), c.field(layout.FPU_STATUS, 16)
    left = e.variable(8)
    with e.loop() as loop:
        loop.break_if(left.get().eq(0))
        i = left.get() - 1
        left.set(i)
        image.write((i << 4) + X87_REGISTERS, e.load(80, _x87_place(c, top, i), 16).zext(128))
    with e.when(has_mxcsr):
        image.write(MXCSR, read_mxcsr(c).zext(64) | (MXCSR_BITS << 32))
    # The processor saves and restores where an exception happened only if one is pending (APM vol. 5, FXSAVE).
    with e.when((status & STATUS_ES).ne(0), likely=False):
        instruction, data = c.field(layout.FPU_IP), c.field(layout.FPU_DP)
        if not wide_pointers:
            instruction = (instruction & 0xFFFF_FFFF) | ((c.field(layout.FPU_CS) & 0xFFFF) << 32)
            data = (data & 0xFFFF_FFFF) | ((c.field(layout.FPU_DS) & 0xFFFF) << 32)
        image.write(DATA_POINTER, data)
        image.write(INSTRUCTION_POINTER, instruction)
        image.write(OPCODE, c.field(layout.FPU_OPCODE, 16))
    valid = c.field(layout.FPU_VALID).bitcast("<8 x i8>").ne(0).bitcast("i8")
    image.write(TAG, valid.zext(16))
    words = c.field(layout.FPU_CONTROL, 16).zext(32) | (status.zext(32) << 16) | (top << 16 + STATUS_TOP_SHIFT)
    image.write(0, words)


def _restore(c: Context, source: Operand, wide_pointers: bool) -> None:
    image = _Image(c, source)
    e = c.emit
    has_mxcsr, has_xmm = _sse_included(c)
    # Once the first and the last bytes could be read, nothing between them can fault.
    image.read(_LAST_BLOCK)
    first, second = image.read(0), image.read(16)
    mxcsr = (second >> 64).trunc(32)
    with e.when(has_mxcsr):
        check_mxcsr(c, mxcsr)
        load_mxcsr(c, mxcsr)
    words = first.trunc(32)
    _set_control(c, words.trunc(16))
    control = (words.trunc(16) & CONTROL_BITS) | CONTROL_ALWAYS_ONE
    status = (words >> 16).trunc(16)
    pending = (status & ~control & CONTROL_MASKS).ne(0)
    summary = pending.select(e.constant(STATUS_ES | STATUS_BUSY, 16), e.constant(0, 16))
    c.set_field(layout.FPU_STATUS, (status & STATUS_PLAIN) | summary)
    top = ((status >> STATUS_TOP_SHIFT) & 7).zext(32)
    c.set_field(layout.FPU_TOP, top)
    valid = (first >> 32).trunc(8).bitcast("<8 x i1>")
    c.set_field(layout.FPU_VALID, e.cast("zext", valid, 8))
    with e.when((status & STATUS_ES).ne(0), likely=False):
        c.set_field(layout.FPU_OPCODE, (first >> 48).trunc(16).zext(64) & 0x7FF)
        instruction, data = (first >> 64).trunc(64), second.trunc(64)
        if not wide_pointers:
            c.set_field(layout.FPU_CS, (instruction >> 32) & 0xFFFF)
            c.set_field(layout.FPU_DS, (data >> 32) & 0xFFFF)
            instruction, data = instruction & 0xFFFF_FFFF, data & 0xFFFF_FFFF
        c.set_field(layout.FPU_IP, instruction)
        c.set_field(layout.FPU_DP, data)
    turn = e.variable(0)
    with e.loop() as loop:
        i = turn.get()
        loop.break_if(i.eq(8))
        e.store(image.read((i << 4) + X87_REGISTERS).trunc(80), _x87_place(c, top, i), 16)
        turn.set(i + 1)
    with e.when(has_xmm):
        turn.set(0)
        with e.loop() as loop:
            i = turn.get()
            loop.break_if(i.eq(_xmm_count(c)))
            e.store(image.read((i << 4) + XMM_REGISTERS), c.state_pointer((i << 4) + layout.XMM), 16)
            turn.set(i + 1)


def _set_control(c: Context, value: Value) -> None:
    """FLDCW: the host's unit runs with the guest's precision and rounding, all exceptions masked."""
    control = (value & CONTROL_BITS) | CONTROL_ALWAYS_ONE
    c.set_field(layout.FPU_CONTROL, control)
    masked = (control | CONTROL_MASKS).zext(32)
    c.set_field(layout.FPU_CONTROL_MASKED, masked)
    place = c.state_pointer(layout.FPU_CONTROL_MASKED)
    c.emit.assembly("fldcw ($0)", "r,~{memory},~{dirflag},~{fpsr},~{flags}", "void", [place])


@semantics("fxsave")
def fxsave(c: Context, destination: Operand) -> None:
    _save(c, destination, wide_pointers=False)


@semantics("fxsave64")
def fxsave64(c: Context, destination: Operand) -> None:
    _save(c, destination, wide_pointers=True)


@semantics("fxrstor")
def fxrstor(c: Context, source: Operand) -> None:
    _restore(c, source, wide_pointers=False)


@semantics("fxrstor64")
def fxrstor64(c: Context, source: Operand) -> None:
    _restore(c, source, wide_pointers=True)
