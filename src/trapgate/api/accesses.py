"""Which memory an instruction is about to access: worked out from its operands, before it is carried out."""

from __future__ import annotations

from dataclasses import dataclass

import iced_x86 as iced

from trapgate.arch.registers import DF, RCX
from trapgate.cpu.operands import register_of
from trapgate.engine.processor import Processor
from trapgate.isa.operand_tables import SEGMENT_NUMBERS

LONGEST_INSTRUCTION = 15

_WRITES = frozenset((iced.OpAccess.WRITE, iced.OpAccess.COND_WRITE))
_BOTH = frozenset((iced.OpAccess.READ_WRITE, iced.OpAccess.READ_COND_WRITE))
_NONE = frozenset((iced.OpAccess.NONE, iced.OpAccess.NO_MEM_ACCESS))
_M64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class MemoryAccess:
    """An instruction's access to `size` bytes from linear `address` on. `kind`: "read", "write" or "read-write"."""

    kind: str
    address: int
    size: int

    def __str__(self) -> str:
        return f"{self.kind} of {self.size} bytes at {self.address:#x}"

    @property
    def is_write(self) -> bool:
        """True when memory is changed."""
        return self.kind != "read"

    def touches(self, first: int, size: int) -> bool:
        """Whether it reaches the `size` bytes from linear address `first` on."""
        return self.address < first + size and first < self.address + self.size


class Accesses:
    """Finds the accesses of instructions."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._information = iced.InstructionInfoFactory()

    def of(self, instruction: iced.Instruction) -> list[MemoryAccess]:
        """The accesses of the instruction at rip, in the order in which iced-x86 names them. The stack is included.

        A repeated string instruction has one access for all its elements; CMPS and SCAS may end earlier.
        """
        p = self._processor
        found = []
        for used in self._information.info(instruction).used_memory():
            if used.access in _NONE:
                continue
            kind = "write" if used.access in _WRITES else "read-write" if used.access in _BOTH else "read"
            size = iced.MemorySizeExt.size(used.memory_size)
            if not size:
                continue
            linear = self._linear(used, instruction)
            if instruction.has_rep_prefix or instruction.has_repne_prefix:
                count = p.register(RCX, _address_bits(used))
                if not count:
                    continue
                if p.rflags & DF:
                    linear -= size * (count - 1)
                size *= count
            found.append(MemoryAccess(kind, linear & _M64, size))
        return found

    def _linear(self, used: iced.UsedMemory, instruction: iced.Instruction) -> int:
        p = self._processor
        offset = used.displacement
        for register, scale in ((used.base, 1), (used.index, used.scale)):
            if register in (iced.Register.RIP, iced.Register.EIP):
                # The displacement is the whole address already.
                continue
            if register != iced.Register.NONE:
                place, width = register_of(register)
                offset += int.from_bytes(p.state.bytes[place : place + width // 8], "little") * scale
        offset &= (1 << _address_bits(used)) - 1
        number = SEGMENT_NUMBERS.get(used.segment)
        if number is None or (p.bits == 64 and number < 4):
            return offset
        return p.segments[number].base + offset & (_M64 if p.bits == 64 else 0xFFFF_FFFF)


def _address_bits(used: iced.UsedMemory) -> int:
    return {iced.CodeSize.CODE16: 16, iced.CodeSize.CODE32: 32}.get(used.address_size, 64)
