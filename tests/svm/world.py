"""A guest of engine/harness.py put under AMD-V: its state goes into a VMCB, and the test is the hypervisor.

Host-physical memory is the harness's, with besides:

    2F_0000h  VMCB        2F_1000h  I/O permission map, three pages     2F_4000h  MSR permission map, two pages
    30_0000h  nested tables, which map the first 3 MB to themselves (`nested`)
    38_0000h  SMBASE, where a test wants SMM: code at 38_8000h

All permission bits are clear.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from engine.assembly import assemble
from engine.harness import Guest, P, U, W
from trapgate.arch import layout, vmcb
from trapgate.arch.registers import CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, EFER_SVME

VMCB, IOPM, MSRPM = 0x2F_0000, 0x2F_1000, 0x2F_4000
NESTED_TABLES, NESTED_END = 0x30_0000, 0x30_0000
SMBASE = 0x38_0000
GUEST_ASID = 1
PAT = 0x0007_0406_0007_0406


class Exit(NamedTuple):
    """What a #VMEXIT says."""

    code: int
    info1: int
    info2: int
    int_info: int


class World:
    """One guest and its VMCB. Make the guest's mode with `guest.enter_...`, then call `wrap`."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.memory = guest.memory
        self.processor = guest.processor
        self._next_nested = NESTED_TABLES

    def wrap(self) -> World:
        """Put the processor's present state into the VMCB; from now on it runs under AMD-V."""
        p = self.processor
        for register, place in zip(p.segments[:4], (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS), strict=True):
            word = register.selector | register.attributes << 16 | register.limit << 32
            self.memory.write(VMCB + place, struct.pack("<2Q", word, register.base))
        for place, base, limit in (
            (vmcb.GDTR, p.gdtr_base, p.gdtr_limit),
            (vmcb.IDTR, p.idtr_base, p.idtr_limit),
        ):
            self.memory.write(VMCB + place + 4, struct.pack("<IQ", limit, base))
        for place, value in (
            (vmcb.EFER, p.efer | EFER_SVME), (vmcb.CR0, p.cr0), (vmcb.CR3, p.cr3), (vmcb.CR4, p.cr4),
            (vmcb.DR6, p.dr[6]), (vmcb.DR7, p.dr[7]), (vmcb.RFLAGS, p.rflags), (vmcb.RIP, p.rip),
            (vmcb.RSP, self.guest["rsp"]), (vmcb.RAX, self.guest["rax"]), (vmcb.IOPM_BASE_PA, IOPM),
            (vmcb.MSRPM_BASE_PA, MSRPM), (vmcb.G_PAT, PAT),
        ):  # fmt: skip
            self[place] = value
        self.memory.write_u8(VMCB + vmcb.CPL, p.cpl)
        self.memory.write_u32(VMCB + vmcb.ASID, GUEST_ASID)
        self.intercept("vmrun", "vmmcall", "hlt", "shutdown")
        p.python_host = True
        return self

    def code(self, bits: int, text: str, org: int = 0x8000) -> World:
        """Put code into memory (engine/assembly.py)."""
        self.memory.write(org, assemble(bits, text, org).data)
        return self

    def go(self, rip: int = 0x8000) -> World:
        """The guest goes on at `rip`."""
        self[vmcb.RIP] = rip
        return self

    # -- the VMCB

    def __getitem__(self, place: int) -> int:
        """A 64-bit field of the VMCB."""
        return self.memory.read_u64(VMCB + place)

    def __setitem__(self, place: int, value: int) -> None:
        self.memory.write_u64(VMCB + place, value)

    def u32(self, place: int, value: int) -> World:
        """Write a 32-bit field."""
        self.memory.write_u32(VMCB + place, value)
        return self

    def u8(self, place: int, value: int) -> World:
        """Write an 8-bit field."""
        self.memory.write_u8(VMCB + place, value)
        return self

    def read_u8(self, place: int) -> int:
        """An 8-bit field."""
        return self.memory.read_u8(VMCB + place)

    def state(self) -> bytes:
        """The VMCB's state save area."""
        return bytes(self.memory.read(VMCB + 0x400, 0xC00))

    def intercept(self, *names: str) -> World:
        """Intercept these, by their names in arch/vmcb.py."""
        return self._intercept(names, True)

    def let(self, *names: str) -> World:
        """Intercept these no longer."""
        return self._intercept(names, False)

    def _intercept(self, names: tuple[str, ...], wanted: bool) -> World:
        for name in names:
            place = vmcb.INTERCEPT_MISC1 if name in vmcb.MISC1 else vmcb.INTERCEPT_MISC2
            bit = vmcb.misc1(name) if name in vmcb.MISC1 else vmcb.misc2(name)
            word = self.memory.read_u32(VMCB + place) & ~bit
            self.memory.write_u32(VMCB + place, word | (bit if wanted else 0))
        return self

    def intercept_exceptions(self, *exceptions: int) -> World:
        """Intercept exception vectors."""
        mask = sum(1 << vector for vector in exceptions)
        self.memory.write_u32(VMCB + vmcb.INTERCEPT_EXCEPTIONS, mask)
        return self

    def inject(self, kind: int, vector: int, error: int | None = None) -> World:
        """EVENTINJ."""
        self[vmcb.EVENTINJ] = event(kind, vector, error)
        return self

    def virtual_interrupt(
        self, vector: int = 0, priority: int = 15, tpr: int = 0, pending: bool = True, masking: bool = False,
        ignore_tpr: bool = False,
    ) -> World:  # fmt: skip
        """The word of V_TPR, V_IRQ, V_INTR_PRIO, V_IGN_TPR, V_INTR_MASKING and V_INTR_VECTOR."""
        self[vmcb.VIRTUAL_INTERRUPT] = (
            tpr | pending << 8 | priority << 16 | ignore_tpr << 20 | masking << 24 | vector << vmcb.V_VECTOR_SHIFT
        )
        return self

    # -- nested paging

    def nested(self) -> World:
        """Nested paging, in the format of a 64-bit host: the first 3 MB are themselves."""
        state = self.processor.state
        state.set(layout.HOST_CR4, CR4_PAE)
        state.set(layout.HOST_EFER, EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME)
        self[vmcb.N_CR3] = self._new_nested_table()
        self[vmcb.NESTED_CONTROL] = 1
        for page in range(0, NESTED_END, 0x1000):
            self.map_nested(page, page)
        return self

    def _new_nested_table(self) -> int:
        table, self._next_nested = self._next_nested, self._next_nested + 0x1000
        self.memory.write(table, bytes(0x1000))
        return table

    def nested_entry(self, guest_physical: int) -> int:
        """Host-physical address of the nested page-table entry of a 4 KB page."""
        table = self[vmcb.N_CR3]
        for shift in (39, 30, 21):
            place = table + (guest_physical >> shift & 511) * 8
            if not self.memory.read_u64(place) & P:
                self.memory.write_u64(place, self._new_nested_table() | P | W | U)
            table = self.memory.read_u64(place) & 0xF_FFFF_FFFF_F000
        return table + (guest_physical >> 12 & 511) * 8

    def map_nested(self, guest_physical: int, host_physical: int, rights: int = P | W | U) -> None:
        """Map a 4 KB page; 0 for `rights` takes it away. The TLB is not flushed."""
        self.memory.write_u64(self.nested_entry(guest_physical), host_physical | rights)

    # -- running

    def run(self) -> Exit:
        """VMRUN, until the next #VMEXIT."""
        reason = self.processor.run_guest(VMCB)
        assert reason == "vmexit", f"wanted a #VMEXIT, got {reason} at {self.processor.rip:#x}"
        return self.exit()

    def exit(self) -> Exit:
        """What the last #VMEXIT said."""
        return Exit(self[vmcb.EXITCODE], self[vmcb.EXITINFO1], self[vmcb.EXITINFO2], self[vmcb.EXITINTINFO])

    def after(self, cycles: int, what: Callable[[], None]) -> World:
        """Something happens outside in so many modelled cycles."""
        self.guest.clock.schedule(self.guest.clock.now + cycles, what)
        return self


def event(kind: int, vector: int, error: int | None = None) -> int:
    """EVENTINJ and EXITINTINFO (APM vol. 2, 15.7.2 and 15.20)."""
    value = vector | kind << vmcb.EVENT_TYPE_SHIFT | vmcb.EVENT_VALID
    return value if error is None else value | vmcb.EVENT_ERROR_VALID | error << vmcb.EVENT_ERROR_SHIFT
