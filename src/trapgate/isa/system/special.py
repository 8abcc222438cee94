"""CPUID, RDTSC where privilege counts, RDTSCP, RDPMC, MONITOR, MWAIT, ENTER with levels (APM vol. 3)."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch.registers import CR4_PCE, CR4_TSD, RAX, RBP, RBX, RCX, RDX, RSP, SS
from trapgate.arch.vectors import GP, UD
from trapgate.isa.processor import Processor, python_form

_TSC_AUX = 0xC000_0103


@python_form("cpuid")
def cpuid(p: Processor, instruction: iced.Instruction) -> None:
    eax, ebx, ecx, edx = p.cpuid(p.register(RAX, 32), p.register(RCX, 32))
    for number, value in ((RAX, eax), (RBX, ebx), (RCX, ecx), (RDX, edx)):
        p.set_register(number, 32, value)


def _time_stamp(p: Processor) -> None:
    if p.cr4 & CR4_TSD and p.cpl != 0:
        p.fault(GP, 0)
    stamp = p.time_stamp()
    p.set_register(RAX, 32, stamp)
    p.set_register(RDX, 32, stamp >> 32)


@python_form("rdtsc_python")
def rdtsc(p: Processor, instruction: iced.Instruction) -> None:
    _time_stamp(p)


@python_form("rdtscp_python")
def rdtscp(p: Processor, instruction: iced.Instruction) -> None:
    _time_stamp(p)
    p.set_register(RCX, 32, p.read_msr(_TSC_AUX))


@python_form("rdpmc")
def rdpmc(p: Processor, instruction: iced.Instruction) -> None:
    if p.cpl != 0 and not p.cr4 & CR4_PCE:
        p.fault(GP, 0)
    number, counters = p.register(RCX, 32), p.profile.counters
    if number >= len(counters):
        p.fault(GP, 0)
    value = p.read_msr(counters[number])  # the counters do not count: no event is modelled
    p.set_register(RAX, 32, value)
    p.set_register(RDX, 32, value >> 32)


@python_form("monitor")
def monitor(p: Processor, instruction: iced.Instruction) -> None:
    if p.cpl != 0:
        p.fault(UD)
    if p.register(RCX, 32):
        p.fault(GP, 0)


@python_form("mwait")
def mwait(p: Processor, instruction: iced.Instruction) -> None:
    """Waits for an interrupt only: stores by others to the monitored line do not happen on one processor."""
    if p.cpl != 0:
        p.fault(UD)
    if p.register(RCX, 32) & ~1:
        p.fault(GP, 0)
    p.halted = True


@python_form("pause_python")
def pause(p: Processor, instruction: iced.Instruction) -> None:
    """Where it may be intercepted; else native code does nothing for it."""


@python_form("rsm")
def rsm(p: Processor, instruction: iced.Instruction) -> None:
    p.leave_smm()


@python_form("instruction_breakpoint")
def instruction_breakpoint(p: Processor, instruction: iced.Instruction) -> None:
    """Stands before an instruction at a breakpoint; with RF set the run loop steps over it."""
    p.instruction_breakpoint()


@python_form("enter")
def enter(p: Processor, instruction: iced.Instruction) -> None:
    code = iced.Code
    width = {code.ENTERW_IMM16_IMM8: 16, code.ENTERD_IMM16_IMM8: 32, code.ENTERQ_IMM16_IMM8: 64}[instruction.code]
    size, level = instruction.immediate(0), instruction.immediate(1) & 31
    bits = p.stack_bits
    mask = (1 << bits) - 1
    step = width // 8
    before = p.register(RSP, 64)
    p.push(width, p.register(RBP, width))
    frame = p.register(RSP, bits)
    try:
        display = p.register(RBP, bits)
        for _ in range(level - 1):
            display = display - step & mask
            p.push(width, p.read_segment(SS, display, step))
        if level:
            p.push(width, frame)
        new = p.register(RSP, bits) - size & mask
        p.write_segment(SS, new, 1, p.read_segment(SS, new, 1))  # a fault for the new top is taken now
    except Exception:
        p.set_register(RSP, 64, before)
        raise
    p.set_register(RBP, width, frame)
    p.set_register(RSP, bits, new)
