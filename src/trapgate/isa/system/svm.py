"""AMD-V's instructions (APM vol. 3, chapter 4: VMRUN, VMLOAD, VMSAVE, VMMCALL, STGI, CLGI, INVLPGA, SKINIT)."""

from __future__ import annotations

import iced_x86 as iced
from iced_x86 import Code

from trapgate.arch.registers import EFER_SVME, RAX, RCX
from trapgate.arch.vectors import GP, UD
from trapgate.isa.processor import Processor, python_form

_BITS = {
    Code.VMRUNW: 16, Code.VMRUND: 32, Code.VMLOADW: 16, Code.VMLOADD: 32, Code.VMSAVEW: 16, Code.VMSAVED: 32,
    Code.INVLPGAW: 16, Code.INVLPGAD: 32,
}  # fmt: skip


def _require(p: Processor) -> None:
    if not p.efer & EFER_SVME or p.real_mode or p.virtual8086:
        p.fault(UD)
    if p.cpl != 0:
        p.fault(GP, 0)


def _vmcb(p: Processor, instruction: iced.Instruction) -> int:
    """Host-physical address in rAX; #GP(0) unless it is a page that memory has."""
    place = p.register(RAX, _BITS.get(instruction.code, 64))
    if place & 0xFFF or not p.is_vmcb_page(place):
        p.fault(GP, 0)
    return place


@python_form("vmrun")
def vmrun(p: Processor, instruction: iced.Instruction) -> None:
    _require(p)
    p.vmrun(_vmcb(p, instruction))


@python_form("vmload")
def vmload(p: Processor, instruction: iced.Instruction) -> None:
    _require(p)
    p.vmload(_vmcb(p, instruction))


@python_form("vmsave")
def vmsave(p: Processor, instruction: iced.Instruction) -> None:
    _require(p)
    p.vmsave(_vmcb(p, instruction))


@python_form("vmmcall")
def vmmcall(p: Processor, instruction: iced.Instruction) -> None:
    """Where nobody intercepts it."""
    p.fault(UD)


@python_form("stgi")
def stgi(p: Processor, instruction: iced.Instruction) -> None:
    _require(p)
    p.set_gif(True)


@python_form("clgi")
def clgi(p: Processor, instruction: iced.Instruction) -> None:
    _require(p)
    p.set_gif(False)


@python_form("invlpga")
def invlpga(p: Processor, instruction: iced.Instruction) -> None:
    _require(p)
    p.flush_page_of(p.register(RAX, _BITS.get(instruction.code, 64)), p.register(RCX, 32))


@python_form("skinit")
def skinit(p: Processor, instruction: iced.Instruction) -> None:
    """There is no secure loader."""
    p.fault(UD)
