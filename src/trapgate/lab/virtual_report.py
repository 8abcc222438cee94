"""A virtual processor's state in words, as lab/processor_report.py has it for a real one."""

from __future__ import annotations

from trapgate.arch import vmcb
from trapgate.arch.paging import PF_I
from trapgate.arch.registers import CS, GPR_NAMES, SEGMENT_NAMES
from trapgate.engine.processor import Processor
from trapgate.lab.processor_report import INSTRUCTIONS, LONGEST_INSTRUCTION, PAGE, code_lines, exception_lines
from trapgate.vmm.faults import GuestFault
from trapgate.vmm.vcpu import VirtualCpu


def describe_virtual_cpu(vcpu: VirtualCpu, processor: Processor) -> str:
    """The guest's registers as its hypervisor has them, its exceptions so far and the code at rip, in lines."""
    block = vcpu.block
    vcpu.begin_registers()
    registers = [f"{name:>3}={vcpu.gpr[number]:016x}" for number, name in enumerate(GPR_NAMES)]
    lines = ["  ".join(registers[start : start + 4]) for start in range(0, len(registers), 4)]
    lines.append(f"rip={vcpu.rip:016x}  rflags={vcpu.rflags:08x}  cpl={vcpu.cpl}  {vcpu.bits}-bit code")
    for number, name in enumerate(SEGMENT_NAMES):
        selector, base, limit, attributes = vcpu.segment(number)
        lines.append(f" {name}={selector:04x}  base={base:016x}  limit={limit:08x}  attributes={attributes:03x}")
    lines.append(
        f"cr0={vcpu.cr0:08x}  cr2={block[vmcb.CR2]:016x}  cr3={vcpu.cr3:016x}  cr4={vcpu.cr4:08x}  efer={vcpu.efer:08x}"
    )
    gdt, idt = block.segment(vmcb.GDTR), block.segment(vmcb.IDTR)
    lines.append(f"gdt={gdt[1]:016x}  limit={gdt[2]:04x}  idt={idt[1]:016x}  limit={idt[2]:04x}")
    lines.append(f"last exit: {vmcb.exit_name(block[vmcb.EXITCODE])}")
    lines.extend(exception_lines(processor))
    return "\n".join([*lines, *code_lines(_code(vcpu), vcpu.bits, vcpu.rip)])


def _code(vcpu: VirtualCpu) -> bytes:
    """The bytes at rip, fewer where the next page cannot be had."""
    mask = (1 << 64) - 1 if vcpu.bits == 64 else 0xFFFF_FFFF
    linear = (vcpu.rip if vcpu.bits == 64 else vcpu.segment(CS)[1] + vcpu.rip) & mask
    data, wanted = b"", INSTRUCTIONS * LONGEST_INSTRUCTION
    while len(data) < wanted:
        try:
            physical = vcpu.technique.translate(linear, PF_I)
        except GuestFault:
            break
        size = min(wanted - len(data), PAGE - linear % PAGE)
        host = vcpu.vm.memory.host_address(physical)
        if host is None:
            break
        data += vcpu.vm.memory.host.read(host, size)
        linear = linear + size & mask
    return data
