"""Call gates (APM vol. 2, 4.7.3, 4.8.4 and 4.11.2).

| gate                | offset          | a stack entry | parameters copied |
|---------------------|-----------------|---------------|-------------------|
| a 16-bit (type 4)   | bits 15..0 only | 2 bytes       | words             |
| b 32-bit (type 12)  | 32 bits         | 4 bytes       | doublewords       |
| c 64-bit, long mode | 64 bits         | 8 bytes       | none              |
"""

from __future__ import annotations

from trapgate.arch import vectors
from trapgate.arch.registers import CS, RSP, SS
from trapgate.arch.segments import (
    ATTRIBUTE_DB,
    ATTRIBUTE_DC,
    ATTRIBUTE_L,
    ATTRIBUTE_P,
    ATTRIBUTE_S,
    CALL_GATE16,
    CALL_GATE32,
    TASK_GATE,
    TSS16_AVAILABLE,
    TSS32_AVAILABLE,
    attributes_of,
)
from trapgate.cpu.faults import Fault
from trapgate.cpu.segmentation import CODE_MASK, dpl_of
from trapgate.cpu.tasks import SwitchKind, Tasks

_LEGACY_TARGETS = (TSS16_AVAILABLE, TSS32_AVAILABLE, TASK_GATE, CALL_GATE16, CALL_GATE32)


class Gates(Tasks):
    """Far jumps and calls to system descriptors."""

    def through_system_descriptor(self, selector: int, call: bool) -> bool:
        """Carry out a far jump or call whose selector names a gate or TSS; False when it names something else.

        Its DPL must be at least CPL and RPL (#GP), and it must be present (#NP); the instruction's offset is ignored.
        """
        if selector & ~3 == 0:
            raise Fault(vectors.GP, 0)
        descriptor, place = self.read_descriptor(selector)
        attributes = attributes_of(descriptor)
        if attributes & ATTRIBUTE_S:
            return False
        kind = attributes & 0xF
        known = kind == CALL_GATE32 if self.long_mode else kind in _LEGACY_TARGETS
        if not known or dpl_of(attributes) < max(self.cpl, selector & 3):
            raise Fault(vectors.GP, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3)
        if kind in (CALL_GATE16, CALL_GATE32):
            self._through_call_gate(selector, descriptor, place, call)
        else:
            task = self.task_of_gate(descriptor) if kind == TASK_GATE else selector
            self.switch_by_instruction(task, SwitchKind.CALL if call else SwitchKind.JUMP)
        return True

    def _through_call_gate(self, selector: int, gate: int, place: int, call: bool) -> None:
        wide = attributes_of(gate) & 0xF == CALL_GATE32
        offset = gate & 0xFFFF | (gate >> 32 & 0xFFFF_0000 if wide else 0)
        if self.long_mode:
            table_limit = self.ldtr.limit if selector & 4 else self.gdtr_limit
            if (selector & ~7) + 15 > table_limit:
                raise Fault(vectors.GP, selector & ~3)
            upper = self.read_system(place + 8, 8)
            if upper >> 40 & 0x1F:
                raise Fault(vectors.GP, selector & ~3)
            offset |= (upper & 0xFFFF_FFFF) << 32
        target = gate >> 16 & 0xFFFF
        code, code_place = self._check_gate_code(target, call)
        attributes = attributes_of(code)
        cpl = self.cpl if attributes & ATTRIBUTE_DC else dpl_of(attributes)
        if not call:
            self.check_target(offset, code)
            self.enter_code(target, code, code_place, cpl)
        elif cpl < self.cpl:
            self._call_inward(target, code, code_place, cpl, offset, gate)
        else:
            words = [self.segments[CS].selector, self.rip]

            def check() -> None:
                self.check_target(offset, code)

            if self.long_mode:
                bits, sp = 64, self.write_long_frame(words, self.register(RSP, 64), cpl, check=check)
            else:
                bits = self.stack_bits
                sp = self.write_frame(words, 4 if wide else 2, self.register(RSP, bits), bits, None, cpl, check=check)
            self.enter_code(target, code, code_place, cpl)
            self.set_register(RSP, bits, sp)
        self.rip = offset

    def _check_gate_code(self, selector: int, call: bool) -> tuple[int, int]:
        """(descriptor, its address) of the code segment that a call gate names; its RPL does not count."""
        if selector & ~3 == 0:
            raise Fault(vectors.GP, 0)
        descriptor, place = self.read_descriptor(selector)
        attributes = attributes_of(descriptor)
        dpl = dpl_of(attributes)
        same_only = not call and not attributes & ATTRIBUTE_DC
        if attributes & CODE_MASK != CODE_MASK or dpl > self.cpl or (same_only and dpl != self.cpl):
            raise Fault(vectors.GP, selector & ~3)
        if self.long_mode and attributes & (ATTRIBUTE_L | ATTRIBUTE_DB) != ATTRIBUTE_L:
            raise Fault(vectors.GP, selector & ~3)
        if not attributes & ATTRIBUTE_P:
            raise Fault(vectors.NP, selector & ~3)
        return descriptor, place

    def _call_inward(self, target: int, code: int, place: int, cpl: int, offset: int, gate: int) -> None:
        """To an inner level, with its stack from the TSS."""
        outer = [self.segments[SS].selector, self.register(RSP, 64)]
        back = [self.segments[CS].selector, self.rip]

        def check() -> None:
            self.check_target(offset, code)

        if self.long_mode:
            sp = self.write_long_frame(outer + back, self.from_tss(4 + 8 * cpl, 8), cpl, check=check)
            self.enter_code(target, code, place, cpl)
            self.segments[SS].load(cpl, 0, 0, 0)
            self.set_register(RSP, 64, sp)
            return
        stack, sp = self.inner_stack(cpl)
        size = 4 if attributes_of(gate) & 0xF == CALL_GATE32 else 2
        count = gate >> 32 & 0x1F
        copied = [self.stack_read(i * size, 8 * size) for i in reversed(range(count))]
        bits = 32 if stack[3] & ATTRIBUTE_DB else 16
        sp = self.write_frame(outer + copied + back, size, sp, bits, stack, cpl, check=check)
        self.enter_code(target, code, place, cpl)
        self.segments[SS].load(*stack)
        self.set_register(RSP, bits, sp)
