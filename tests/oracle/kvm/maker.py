"""Parts of system cases: selectors, descriptors, gates, memory operands, frames on the stack."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..values import Choices, integer
from .world import (
    ABSENT,
    CODE,
    CODE16,
    CODE32,
    CODE64,
    DATA,
    DATA0,
    DATA16,
    FREE,
    GDT,
    GDT_ENTRIES,
    IDT,
    IST1,
    LDT,
    LDT_ENTRIES,
    LDT_SELECTOR,
    OTHER_CODE,
    OTHER_TSS,
    READ_ONLY,
    STACK,
    SUPERVISOR,
    TSS_SELECTOR,
    USER16,
    USER32,
    USER64,
    USER_DATA,
    USER_DATA16,
    MachineState,
    Mode,
    descriptor,
    gate,
    initial_state,
)

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
OPERAND_SIZE, ADDRESS_SIZE = b"\x66", b"\x67"
_FIXED_SELECTORS = (
    CODE64, DATA0, CODE32, CODE16, DATA16, USER32, USER_DATA, USER64, USER16, USER_DATA16, TSS_SELECTOR, LDT_SELECTOR,
)  # fmt: skip
_ARITHMETIC = 0x8D5


@dataclass
class Maker:
    """A case being made."""

    mode: Mode
    choices: Choices
    state: MachineState
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    uses_dr: bool = False
    uses_msrs: bool = False

    @classmethod
    def of(cls, mode: Mode, choices: Choices) -> Maker:
        """Registers at random, data at random; everything else as the mode has it."""
        state = initial_state(mode)
        width = 64 if mode.bits == 64 else 32
        for number in range(16 if mode.bits == 64 else 8):
            if number != RSP:
                state.gpr[number] = integer(choices, width)
        state.gpr[RSP] = STACK - choices.pick((0, 0, 0, 2, choices.between(0, 63)))
        state.rflags |= choices.bits(12) & _ARITHMETIC
        if mode.cpl == 3 or choices.bits(1):
            state.rflags |= 0x200
        if not (mode.kind == "long" and mode.cpl):
            state.rflags |= choices.pick((0, 0, choices.bits(2) << 12))
        made = cls(mode, choices, state)
        made.put(DATA, choices.bytes(64))
        return made

    @property
    def selectors_count(self) -> bool:
        """Whether a selector names a descriptor."""
        return self.mode.kind not in ("real", "v86")

    def put(self, address: int, data: bytes) -> None:
        """Write memory before the case."""
        self.patches.append((address, data))

    # -- selectors and descriptors

    def selector(self) -> int:
        """A selector, right or wrong, whose descriptor is random when it is one of the case's own."""
        c = self.choices
        if not self.selectors_count:
            return c.pick((0, 0x100, 0x700, 0xA00, c.bits(12), c.bits(16)))
        kind = c.between(0, 19)
        rpl = c.pick((self.mode.cpl, self.mode.cpl, self.mode.cpl, c.bits(2)))
        if kind < 1:
            return rpl
        if kind < 2:
            return c.bits(16)
        if kind < 5:
            return c.pick(_FIXED_SELECTORS) & ~3 | rpl
        return self.own_entry(self.descriptor()) | rpl

    def own_entry(self, value: int, high: int | None = None) -> int:
        """Put a descriptor in the GDT or the LDT: its selector with RPL 0."""
        c = self.choices
        index = c.between(FREE // 8, GDT_ENTRIES - 2) & ~1
        place, selector = GDT + 8 * index, 8 * index
        if c.chance(25):
            index = c.between(0, LDT_ENTRIES - 2) & ~1
            place, selector = LDT + 8 * index, 8 * index | 4
        self.put(place, value.to_bytes(8, "little"))
        if high is None:
            high = c.pick((0, 0, 0, c.bits(64)))
        self.put(place + 8, high.to_bytes(8, "little"))
        return selector

    def descriptor(self) -> int:
        """Any descriptor; code and data lie at 0 or little above."""
        c = self.choices
        kind = c.between(0, 9)
        dpl = c.pick((self.mode.cpl, self.mode.cpl, c.bits(2))) << 5
        present = 0 if c.chance(10) else 0x80
        flags = c.bits(4) << 8
        base = c.pick((0, 0, 0, 0x10, 0x1000))
        if kind < 7:
            limit = c.pick((0xFFFF, 0xF_FFFF, 0xA, 0xFFF, c.bits(20)))
            return descriptor(0x10 | c.bits(4) | dpl | present | flags, base, limit)
        if kind < 8:
            return descriptor(c.bits(4) | dpl | present | flags, OTHER_TSS, c.pick((0x67, 0x2B, 0x66, 0x300)))
        return self.gate(0x20)

    def code(self, offset_limit: int = 0) -> int:
        """A code segment that a transfer might take."""
        c = self.choices
        if c.chance(15):
            return self.descriptor()
        attributes = 0x98 | c.bits(3) | c.pick((self.mode.cpl, self.mode.cpl, 0, 3, c.bits(2))) << 5
        size = c.pick((0, 0x400, 0x400, 0x200 if self.mode.kind == "long" else 0x400, c.bits(4) << 8))
        return descriptor(
            attributes | size | c.bits(1) << 11, 0, c.pick((0xFFFF, 0xF_FFFF, 0xF_FFFF, OTHER_CODE & 0xFFF))
        )

    def code_selector(self) -> int:
        """A selector for a far transfer."""
        c = self.choices
        kind = c.between(0, 9)
        rpl = c.pick((self.mode.cpl, self.mode.cpl, self.mode.cpl, c.bits(2)))
        if kind < 3:
            fixed = (USER32, USER16, USER64) if self.mode.cpl else (CODE32, CODE16, CODE64)
            return c.pick(fixed) & ~3 | rpl
        if kind < 8:
            return self.own_entry(self.code()) | rpl
        return self.selector()

    def gate(self, vector: int) -> int:
        """A gate of any kind to code of any kind."""
        c = self.choices
        kind = c.pick((0x8E, 0x8F, 0x8C, 0x8C, 0x86, 0x87, 0x84, 0x85, 0x80 | c.bits(5))) | c.pick(
            (0, 0x60, 0x60, c.bits(2) << 5)
        )
        if c.chance(5):
            kind &= ~0x80
        fixed = (CODE64, CODE64, CODE32) if self.mode.kind == "long" else (CODE32, CODE32, CODE16)
        selector = c.pick((*fixed, c.pick(_FIXED_SELECTORS), c.bits(9)))
        return gate(
            kind,
            selector,
            c.pick((OTHER_CODE, OTHER_CODE, OTHER_CODE + vector, OTHER_CODE | c.bits(16) << 16)),
            c.pick((0, 0, c.bits(5), c.bits(8))),
        )

    def interrupt_gate(self, vector: int) -> None:
        """Another gate for a vector, in an IDT of 16- and 32-bit or of 64-bit gates."""
        c = self.choices
        if self.mode.kind == "real":
            segment, offset = self.far_target()
            self.put(4 * vector, (offset | segment << 16).to_bytes(4, "little"))
            return
        value = self.gate(vector)
        if self.mode.kind == "long":
            high = c.pick((0, 0, 0, c.bits(64)))
            value = value & ~(0xFF << 32) | c.pick((0, 0, 1, c.bits(3))) << 32
            self.put(IDT + 16 * vector, value.to_bytes(8, "little") + high.to_bytes(8, "little"))
        else:
            self.put(IDT + 8 * vector, value.to_bytes(8, "little"))

    # -- operands

    def modrm_register(self, reg: int, rm: int | None = None) -> bytes:
        """A ModRM byte with two registers (REX-less)."""
        return bytes([0xC0 | (reg & 7) << 3 | (self.choices.bits(3) if rm is None else rm)])

    def memory(self, reg: int, size: int, content: bytes | None = None) -> bytes:
        """A ModRM byte with [bx] or [rbx], which points at `content` or wherever; `size` bytes are touched."""
        c = self.choices
        kind = c.between(0, 39)
        address = DATA + c.pick((0, 0, 1, c.between(0, 64)))
        if kind == 0:
            address = ABSENT - c.between(0, max(size, 1))
        elif kind == 1:
            address = READ_ONLY + c.bits(8)
        elif kind == 2:
            address = SUPERVISOR + c.bits(8)
        elif kind == 3:
            address = 0xFFFF - c.between(0, size)
        if content is not None and address < 0xFF00:
            self.put(address, content)
        high = 0 if self.mode.bits == 64 else c.pick((0, 0, 0, c.bits(16) << 16)) if self.mode.bits == 16 else 0
        self.state.gpr[RBX] = address | high
        if self.mode.bits == 64 and c.chance(2):
            self.state.gpr[RBX] |= 1 << 63
        return bytes([(reg & 7) << 3 | (7 if self.mode.bits == 16 else 3)])

    def either(self, reg: int, size: int, content: bytes | None = None) -> bytes:
        """A register or a memory operand; what is asked for lies in memory, registers are random."""
        if self.choices.bits(1):
            return self.memory(reg, size, content)
        rm = self.choices.pick((0, 1, 2, 3, 6, 7))
        if content is not None:
            value = int.from_bytes(content[:8], "little")
            mask = (1 << 8 * min(size, 8)) - 1
            self.state.gpr[rm] = self.state.gpr[rm] & ~mask | value & mask
        return self.modrm_register(reg, rm)

    def operand_size(self) -> bytes:
        """The operand-size prefix, sometimes; REX.W in 64-bit code."""
        c = self.choices
        if self.mode.bits == 64:
            return c.pick((b"", b"", OPERAND_SIZE, b"\x48", b"\x48"))
        return c.pick((b"", b"", OPERAND_SIZE))

    def width(self, prefix: bytes) -> int:
        """The operand size in bytes that a prefix leads to."""
        if prefix.startswith(b"\x48"):
            return 8
        return {16: (2, 4), 32: (4, 2), 64: (4, 2)}[self.mode.bits][prefix == OPERAND_SIZE]

    def push_frame(self, words: list[int], size: int) -> None:
        """Words on the guest's stack, the first at its pointer."""
        mask = (1 << 8 * size) - 1
        data = b"".join((word & mask).to_bytes(size, "little") for word in words)
        self.put(self.state.gpr[RSP] & 0xFFFF, data)

    def stack_tss(self) -> None:
        """Other stacks of inner levels in the TSS."""
        c = self.choices
        if self.mode.kind == "long" or not c.chance(15):
            return
        self.put(0x3000 + 8, self.selector().to_bytes(2, "little"))

    def far_target(self) -> tuple[int, int]:
        """(selector, offset) of a far transfer."""
        c = self.choices
        if self.selectors_count:
            return self.code_selector(), self.target()
        selector = c.pick((0, 0, 0x10, 0x100, 0xD00, 0xE00, c.bits(9)))
        return selector, OTHER_CODE + c.bits(8) - (selector << 4)

    def target(self) -> int:
        """Where a transfer goes."""
        c = self.choices
        return c.pick(
            (
                OTHER_CODE,
                OTHER_CODE,
                CODE + 0x40,
                OTHER_CODE + c.bits(12),
                c.pick((1 << 32, 1 << 47, 1 << 31)) | OTHER_CODE,
            )
        )


__all__ = ["IST1", "Maker"]
