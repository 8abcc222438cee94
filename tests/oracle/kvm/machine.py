"""System cases on KVM."""

from __future__ import annotations

import signal
import struct
from collections.abc import Sequence

from trapgate.arch.cpuid import OPTERON_2007

from . import device
from .cases import ENDLESS, HALTED, OUTSIDE, SHUTDOWN, UNIMPLEMENTED, SystemCase, SystemOutcome
from .device import Kvm
from .world import (
    CSTAR,
    KERNEL_GS_BASE,
    LSTAR,
    MEMORY_SIZE,
    PAGE,
    PAT,
    SFMASK,
    STAR,
    SYSENTER_CS,
    SYSENTER_EIP,
    SYSENTER_ESP,
    MachineState,
    Mode,
    Segment,
    template,
)

#: struct kvm_regs holds rAX, rBX, rCX, rDX, rSI, rDI, rSP, rBP: their numbers.
_ORDER = (0, 3, 1, 2, 6, 7, 4, 5, *range(8, 16))
#: struct kvm_sregs: CS, DS, ES, FS, GS, SS, TR, LDTR; here by their numbers.
_SEGMENT_ORDER = (1, 3, 0, 4, 5, 2)
_REGS = struct.Struct("<18Q")
_SEGMENT = struct.Struct("<QIH10B")
_TABLE = struct.Struct("<QH6x")
_CONTROL = struct.Struct("<7Q")
#: How long a case may run before it counts as endless.
_SECONDS = 0.25
#: The MSRs that cases look at.
MSRS = (STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT)


def _pack_segment(segment: Segment) -> bytes:
    a = segment.attributes
    present = a >> 7 & 1
    return _SEGMENT.pack(
        segment.base, segment.limit, segment.selector, a & 15, present, a >> 5 & 3, a >> 10 & 1, a >> 4 & 1, a >> 9 & 1,
        a >> 11 & 1, a >> 8 & 1, 1 - present, 0,
    )  # fmt: skip


def _unpack_segment(data: bytes, offset: int) -> Segment:
    base, limit, selector, kind, present, dpl, db, s, long, g, avl, unusable, _ = _SEGMENT.unpack_from(data, offset)
    attributes = kind | s << 4 | dpl << 5 | present << 7 | avl << 8 | long << 9 | db << 10 | g << 11
    return Segment(selector, base, limit, 0 if unusable else attributes)


class KvmMachine:
    """One virtual machine for one mode."""

    def __init__(self, mode: Mode) -> None:
        self._kvm = kvm = Kvm(MEMORY_SIZE)
        kvm.set_cpuid([(number, 0, 0, *values) for number, values in OPTERON_2007.leaves.items()])
        self._template = template(mode)
        self._pages = [self._template[at : at + PAGE] for at in range(0, MEMORY_SIZE, PAGE)]
        kvm.memory[:] = self._template
        self._fresh_sregs = kvm.system_registers()
        self._fresh_fpu = kvm.fpu()
        self._fresh_events = kvm.events()
        self._old_handler = signal.signal(signal.SIGALRM, lambda number, frame: kvm.stop())

    def close(self) -> None:
        """Give the virtual machine back."""
        signal.signal(signal.SIGALRM, self._old_handler)
        self._kvm.close()

    def run(self, cases: Sequence[SystemCase]) -> list[SystemOutcome]:
        """Run every case from its own state."""
        return [self.run_one(case) for case in cases]

    def run_one(self, case: SystemCase) -> SystemOutcome:
        kvm, state = self._kvm, case.state
        memory = kvm.memory
        for address, data in case.patches:
            memory[address : address + len(data)] = data
        place = (state.segments[1].base + state.rip) & 0xFFFF_FFFF
        memory[place : place + len(case.code)] = case.code
        kvm.set_system_registers(self._pack_sregs(state))
        kvm.set_registers(_REGS.pack(*(state.gpr[i] for i in _ORDER), state.rip, state.rflags))
        kvm.set_events(self._fresh_events)
        if case.uses_dr:
            kvm.set_debug_registers(struct.pack("<6Q", *state.dr).ljust(128, b"\0"))
        if case.uses_msrs:
            kvm.set_msrs(state.msrs)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            while (reason := kvm.run()) == device.EXIT_IO:
                kvm.finish_input()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        ended, details = self._reason(reason)
        after = self._state(case)
        if ended != HALTED:
            kvm.finish()
        pages = {}
        for number, wanted in enumerate(self._pages):
            at = number * PAGE
            if memory[at : at + PAGE] != wanted:
                pages[at] = memory[at : at + PAGE]
                memory[at : at + PAGE] = wanted
        return SystemOutcome(ended, after, pages, details)

    def _reason(self, reason: int) -> tuple[str, str]:
        details = self._kvm.exit_details()
        if reason == device.EXIT_HLT:
            return HALTED, ""
        if reason == device.EXIT_SHUTDOWN:
            return SHUTDOWN, ""
        if reason == device.EXIT_MMIO:
            return OUTSIDE, details[:24].hex()
        if reason == device.EXIT_INTR:
            return ENDLESS, ""
        return UNIMPLEMENTED, f"exit {reason} {details[:32].hex()}"

    def _pack_sregs(self, state: MachineState) -> bytes:
        parts = [_pack_segment(state.segments[i]) for i in _SEGMENT_ORDER]
        parts += [
            _pack_segment(state.tr),
            _pack_segment(state.ldtr),
            _TABLE.pack(*state.gdtr),
            _TABLE.pack(*state.idtr),
        ]
        apic_base = _CONTROL.unpack_from(self._fresh_sregs, 224)[6]
        parts.append(_CONTROL.pack(state.cr0, state.cr2, state.cr3, state.cr4, 0, state.efer, apic_base))
        return b"".join(parts) + bytes(32)

    def _state(self, case: SystemCase) -> MachineState:
        kvm = self._kvm
        regs = _REGS.unpack(kvm.registers())
        data = kvm.system_registers()
        segments = [Segment()] * 6
        for i, number in enumerate(_SEGMENT_ORDER):
            segments[number] = _unpack_segment(data, 24 * i)
        gpr = [0] * 16
        for i, number in enumerate(_ORDER):
            gpr[number] = regs[i]
        cr0, cr2, cr3, cr4, _, efer, _ = _CONTROL.unpack_from(data, 224)
        state = MachineState(
            gpr, regs[16], regs[17], segments, _unpack_segment(data, 144), _unpack_segment(data, 168),
            _TABLE.unpack_from(data, 192), _TABLE.unpack_from(data, 208), cr0, cr2, cr3, cr4, efer,
        )  # fmt: skip
        if case.uses_dr:
            state.dr = list(struct.unpack_from("<6Q", kvm.debug_registers()))
        if case.uses_msrs:
            state.msrs = dict(zip(MSRS, kvm.msrs(list(MSRS)), strict=True))
        return state
