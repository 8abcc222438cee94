"""A virtual processor as the BIOS sees it (firmware/bios/host.py), while the OUT by which it is called has exited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from trapgate.arch import vmcb
from trapgate.arch.registers import FS, RAX, RSP, VM
from trapgate.firmware.image import SegmentValue
from trapgate.vmm.control_block import SEGMENTS

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

_V86_ATTRIBUTES = 0xF3


class _Segments(Sequence[SegmentValue]):
    """ES, CS, SS, DS, FS, GS."""

    def __init__(self, vcpu: VirtualCpu) -> None:
        self._vcpu = vcpu

    def __len__(self) -> int:
        return len(SEGMENTS)

    @overload
    def __getitem__(self, number: int) -> SegmentValue: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[SegmentValue]: ...
    def __getitem__(self, number: int | slice) -> SegmentValue | Sequence[SegmentValue]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        return SegmentValue(*self._vcpu.segment(number))


class BiosProcessor:
    """Widths are in bits, sizes in bytes. Accesses to memory raise GuestFault."""

    def __init__(self, vcpu: VirtualCpu) -> None:
        self._vcpu = vcpu
        self.segments = _Segments(vcpu)

    @property
    def rip(self) -> int:
        """Behind the OUT."""
        return self._vcpu.block[vmcb.EXITINFO2]

    def jump(self, rip: int) -> None:
        """Go on at `rip` instead."""
        self._vcpu.block[vmcb.EXITINFO2] = rip

    def register(self, number: int, width: int) -> int:
        """The low `width` bits of a general register."""
        place = {RAX: vmcb.RAX, RSP: vmcb.RSP}.get(number)
        value = self._vcpu.gpr[number] if place is None else self._vcpu.block[place]
        return value & ((1 << width) - 1)

    def set_register(self, number: int, width: int, value: int) -> None:
        """Write it, as an instruction of that operand size does."""
        mask = (1 << width) - 1
        value = value & mask if width >= 32 else self.register(number, 64) & ~mask | value & mask
        place = {RAX: vmcb.RAX, RSP: vmcb.RSP}.get(number)
        if place is None:
            self._vcpu.gpr[number] = value
        else:
            self._vcpu.block[place] = value

    def read_system(self, linear: int, size: int) -> int:
        """Bytes at a linear address, as CPL 0 reads them."""
        return int.from_bytes(self._vcpu.memory.read(linear, size, 0), "little")

    def write_system(self, linear: int, size: int, value: int) -> None:
        """Write them."""
        self._vcpu.memory.write(linear, value.to_bytes(size, "little"), 0)

    def load_data_segment(self, number: int, selector: int) -> None:
        """MOV to a segment register in real and virtual-8086 mode."""
        vcpu, selector = self._vcpu, selector & 0xFFFF
        _, _, limit, attributes = vcpu.segment(number)
        if vcpu.rflags & VM:
            limit, attributes = 0xFFFF, _V86_ATTRIBUTES
        vcpu.block.set_segment(SEGMENTS[number], SegmentValue(selector, selector << 4, limit, attributes))
        if number >= FS:
            vcpu.backend.vmload(vcpu.block.address)

    def charge(self, cycles: int) -> None:
        """Let modelled time pass."""
        self._vcpu.backend.charge_device(cycles)
