"""Exits for IN, OUT, INS and OUTS (APM vol. 2, 15.10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import iced_x86 as iced

from trapgate.arch import vmcb
from trapgate.arch.breakpoints import port_hits
from trapgate.arch.paging import PF_U, PF_W
from trapgate.arch.registers import CR4_DE, CS, DF, DS, ES, FS, RAX, RCX, RDI, RSI, SS, TF
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.exits.operands import decode

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

#: Elements of one REP INS or OUTS that are done before interrupts are looked at again.
_BURST = 64
#: L0 to G3 of DR7.
_ENABLED = 0xFF
_PAGE = 4096
_REGISTERS = {
    iced.Register.ES: ES, iced.Register.CS: CS, iced.Register.SS: SS, iced.Register.DS: DS, iced.Register.FS: FS,
    iced.Register.GS: FS + 1,
}  # fmt: skip


def ioio(vcpu: VirtualCpu) -> None:
    """Carry out the access on the board."""
    block = vcpu.block
    info = block[vmcb.EXITINFO1]
    port = info >> vmcb.IOIO_PORT_SHIFT & 0xFFFF
    size = info >> vmcb.IOIO_SIZE_SHIFT & 7
    if info & vmcb.IOIO_STRING:
        _string(vcpu, info, port, size)
        return
    vcpu.backend.charge_device(vcpu.backend.costs.port)
    bus = vcpu.vm.board.bus
    rax = block[vmcb.RAX]
    if info & vmcb.IOIO_IN:
        value = bus.read_port(port, size)
        kept = 0 if size == 4 else rax & ~((1 << 8 * size) - 1)
        block[vmcb.RAX] = vcpu.gpr[RAX] = kept | value
    else:
        try:
            bus.write_port(port, size, rax & ((1 << 8 * size) - 1))
        except GuestFault as fault:  # a service of the BIOS wanted memory that is not mapped
            vcpu.inject(fault)
            return
    block[vmcb.RIP] = block[vmcb.EXITINFO2]
    vcpu.completed(_breakpoints_hit(vcpu, port, size))


def _breakpoints_hit(vcpu: VirtualCpu, port: int, size: int) -> int:
    """I/O breakpoints of the guest's: what is intercepted comes to the hypervisor before them (15.10)."""
    dr7 = vcpu.block.peek(vmcb.DR7)
    if not dr7 & _ENABLED or not vcpu.cr4 & CR4_DE:
        return 0
    return port_hits(dr7, [vcpu.backend.breakpoint_address(number) for number in range(4)], port, size)


def _string(vcpu: VirtualCpu, info: int, port: int, size: int) -> None:
    bits = {1: 16, 2: 32, 4: 64}[info >> vmcb.IOIO_ADDRESS_SHIFT & 7]
    mask = (1 << bits) - 1
    is_in, repeated = bool(info & vmcb.IOIO_IN), bool(info & vmcb.IOIO_REPEAT)
    index = RDI if is_in else RSI
    segment = ES if is_in else _source(vcpu, info)
    access = PF_U if vcpu.cpl == 3 else 0
    step = -size if vcpu.rflags & DF else size
    bus, gpr = vcpu.vm.board.bus, vcpu.gpr
    hits = _breakpoints_hit(vcpu, port, size)
    traps = bool(hits or vcpu.block.peek(vmcb.RFLAGS) & TF)  # after each turn
    left = _BURST if repeated and not traps else 1
    try:
        while left:
            left -= 1
            before = vcpu.block.reads, vcpu.block.writes
            if repeated and not gpr[RCX] & mask:
                break
            linear = _linear(vcpu, segment, gpr[index] & mask, size, is_in)
            if is_in:
                # The destination is checked before the device is read, which cannot be undone.
                vcpu.memory.read(linear, size, access | PF_W)
                vcpu.memory.write(linear, bus.read_port(port, size).to_bytes(size, "little"), access | PF_W)
            else:
                bus.write_port(port, size, int.from_bytes(vcpu.memory.read(linear, size, access), "little"))
            vcpu.backend.charge_device(vcpu.backend.costs.port)
            gpr[index] = _merged(gpr[index], gpr[index] + step, bits)
            if repeated:
                gpr[RCX] = _merged(gpr[RCX], gpr[RCX] - 1, bits)
                if step > 0 and bus.has_runs(port):
                    # Not beyond the last offset: the register then begins again at 0.
                    most = min(left, gpr[RCX] & mask, (mask + 1 - (gpr[index] & mask)) // size)
                    after = vcpu.block.reads, vcpu.block.writes
                    done = _run(vcpu, port, size, segment, gpr[index] & mask, most, is_in, access)
                    # Each turn costs the accesses to the guest's state that one by one makes.
                    vcpu.block.reads, vcpu.block.writes = (
                        now + done * (now - then) for now, then in zip(after, before, strict=True)
                    )
                    vcpu.backend.charge_device(vcpu.backend.costs.port * done)
                    gpr[index] = _merged(gpr[index], gpr[index] + size * done, bits)
                    gpr[RCX] = _merged(gpr[RCX], gpr[RCX] - done, bits)
                    left -= done
    except GuestFault as fault:
        vcpu.inject(fault)
        return
    finished = not repeated or not gpr[RCX] & mask
    if finished:
        vcpu.rip = vcpu.block[vmcb.EXITINFO2]
    if finished or traps:
        vcpu.completed(hits)
    else:
        vcpu.backend.retire(1)  # the turns done together are one, as on the bare machine


def _run(
    vcpu: VirtualCpu, port: int, size: int, segment: int, offset: int, count: int, is_in: bool, access: int
) -> int:
    """Turns that the device does at once, upwards in the page of the element before them, which was looked up."""
    try:
        linear = _linear(vcpu, segment, offset, size, is_in)
        count = min(count, (_PAGE - linear % _PAGE) // size)
        if linear % _PAGE < size or count < 1:
            return 0
        _linear(vcpu, segment, offset + size * (count - 1), size, is_in)
    except GuestFault:
        return 0  # it comes at its own element
    bus, memory = vcpu.vm.board.bus, vcpu.memory
    if not memory.is_ram(linear, access | (PF_W if is_in else 0)):
        return 0
    if not is_in:
        return bus.write_run(port, size, memory.read(linear, size * count, access))
    data = bus.read_run(port, size, count)
    if data:
        memory.write(linear, data, access | PF_W)
    return len(data) // size


def _merged(old: int, value: int, bits: int) -> int:
    """A register after a write of `bits` bits."""
    if bits == 16:
        return old & ~0xFFFF | value & 0xFFFF
    return value & ((1 << bits) - 1)


def _source(vcpu: VirtualCpu, info: int) -> int:
    """The segment of OUTS: with decode assists the processor says it, else the prefixes do."""
    if "DECODE_ASSISTS" in vcpu.backend.profile.svm_features:
        return info >> vmcb.IOIO_SEGMENT_SHIFT & 7
    return _REGISTERS.get(decode(vcpu).memory_segment, DS)


def _linear(vcpu: VirtualCpu, segment: int, offset: int, size: int, write: bool) -> int:
    """Linear address of an element; limits are checked outside 64-bit mode."""
    base = vcpu.segment(segment)[1]
    if vcpu.bits == 64:
        return offset + (base if segment >= FS else 0) & (1 << 64) - 1
    limit = vcpu.segment(segment)[2]
    if offset + size - 1 > limit:
        raise GuestFault(13, 0)
    return base + offset & 0xFFFF_FFFF


EXITS = {vmcb.EXIT["ioio"]: ioio}
