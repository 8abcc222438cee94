"""Instruction intercepts (APM vol. 2, 15.9 to 15.14, table 15-7), as a column beside the instruction.

In a guest the processor carries out `guest_forms` instead of its plain forms: those that can be intercepted look at
the VMCB first. The exceptions that the manual lets go before the intercept are checked here; all others come after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import iced_x86 as iced
from iced_x86 import Code, Mnemonic, OpKind, Register

from trapgate.arch import vectors, vmcb
from trapgate.arch.registers import CR0_MP, CR0_TS, CR4_DE, CR4_PCE, CR4_TSD, EFER_SVME, ES, RAX, RCX, RDX
from trapgate.cpu.debug import DR7_GD
from trapgate.cpu.faults import Fault, VmExit
from trapgate.isa.operand_tables import CONTROL_READS, CONTROL_WRITES, SEGMENT_NUMBERS
from trapgate.isa.processor import PythonForm

if TYPE_CHECKING:
    from trapgate.cpu.svm.guest_mode import GuestMode

#: Looks at one instruction of a guest, and raises VmExit or the exception that goes before.
Check = Callable[["GuestMode", iced.Instruction], None]


def _leave(p: GuestMode, code: int, info1: int = 0, info2: int = 0) -> None:
    raise VmExit(code, info1, info2, next_rip=p.rip)


#: Nothing goes before the intercept.
_no_check = None


def _privileged(p: GuestMode) -> None:
    if p.cpl:
        raise Fault(vectors.GP, 0)


def _undefined_outside_cpl0(p: GuestMode) -> None:
    if p.cpl:
        raise Fault(vectors.UD)


def _protected_mode(p: GuestMode) -> None:
    if p.real_mode or p.virtual8086:
        raise Fault(vectors.UD)


def _protected_and_privileged(p: GuestMode) -> None:
    _protected_mode(p)
    _privileged(p)


def _virtualization(p: GuestMode) -> None:
    """VMRUN and its kin (APM vol. 3): #UD unless EFER.SVME in protected mode, then CPL 0."""
    if not p.efer & EFER_SVME:
        raise Fault(vectors.UD)
    _protected_and_privileged(p)


def _time_stamp(p: GuestMode) -> None:
    if p.cr4 & CR4_TSD and p.cpl:
        raise Fault(vectors.GP, 0)


def _counters(p: GuestMode) -> None:
    if (p.cpl and not p.cr4 & CR4_PCE) or p.register(RCX, 32) >= len(p.profile.counters):
        raise Fault(vectors.GP, 0)


def _monitor(p: GuestMode) -> None:
    """MONITOR and MWAIT have their extensions in ECX, of which there is one, for MWAIT (APM vol. 3)."""
    _undefined_outside_cpl0(p)
    if p.register(RCX, 32):
        raise Fault(vectors.GP, 0)


def _in_first_word(name: str, before: Callable[[GuestMode], None] | None) -> Check:
    mask, code = vmcb.misc1(name), vmcb.EXIT[name]

    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        if p.controls.misc1 & mask:
            if before is not None:
                before(p)
            raise VmExit(code, next_rip=p.rip)

    return check


def _in_second_word(name: str, before: Callable[[GuestMode], None] | None) -> Check:
    mask, code = vmcb.misc2(name), vmcb.EXIT[name]

    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        if p.controls.misc2 & mask:
            if before is not None:
                before(p)
            raise VmExit(code, next_rip=p.rip)

    return check


# -- control and debug registers (15.9, table 15-7)

_SEL_WRITE = vmcb.misc1("cr0_sel_write")
_CONTROL_REGISTERS = frozenset((0, 2, 3, 4, 8))
_VALID = 1 << 63


def _assist(p: GuestMode, instruction: iced.Instruction, operand: int) -> int:
    """EXITINFO1 of a register move with decode assists: the general register's number (15.8.1)."""
    if "DECODE_ASSISTS" not in p.profile.svm_features:
        return 0
    return iced.RegisterExt.full_register(instruction.op_register(operand)) - Register.RAX


def _assist_control(p: GuestMode, instruction: iced.Instruction, operand: int) -> int:
    """The same with bit 63, which tells MOV CR from LMSW, SMSW and CLTS."""
    return _assist(p, instruction, operand) | (_VALID if "DECODE_ASSISTS" in p.profile.svm_features else 0)


def _mov_cr(p: GuestMode, instruction: iced.Instruction) -> None:
    _privileged(p)
    first = instruction.op_register(0)
    if Register.CR0 <= first <= Register.CR15:
        number = first - Register.CR0
        selective = number == 0 and p.controls.misc1 & _SEL_WRITE
        if number in _CONTROL_REGISTERS and (p.controls.cr >> 16 + number & 1 or selective):
            _check_value(p, number, p.operand(instruction, 1))
            if p.controls.cr >> 16 + number & 1:
                _leave(p, vmcb.EXIT_CR_WRITE + number, _assist_control(p, instruction, 1))
            # A write of CR0 that changes more than TS and MP; the general intercept goes before it.
            if (p.check_cr0(p.operand(instruction, 1)) ^ p.cr0) & ~(CR0_TS | CR0_MP):
                _leave(p, vmcb.EXIT["cr0_sel_write"], _assist_control(p, instruction, 1))
        return
    number = instruction.op_register(1) - Register.CR0
    if number in _CONTROL_REGISTERS and p.controls.cr >> number & 1:
        _leave(p, vmcb.EXIT_CR_READ + number, _assist_control(p, instruction, 0))


def _check_value(p: GuestMode, number: int, value: int) -> None:
    """#GP(0) for what the register does not take goes before the intercept, but PAE's pointers come after it."""
    if number == 0:
        p.check_cr0(value)
    elif number == 3:
        p.check_cr3(value)
    elif number == 4:
        p.check_cr4(value)
    elif number == 8 and value >> 4:
        raise Fault(vectors.GP, 0)


def _lmsw(p: GuestMode, instruction: iced.Instruction) -> None:
    _privileged(p)
    if p.controls.cr >> 16 & 1:
        _leave(p, vmcb.EXIT_CR_WRITE)
    if p.controls.misc1 & _SEL_WRITE:
        _leave(p, vmcb.EXIT["cr0_sel_write"])  # whatever it writes


def _clts(p: GuestMode, instruction: iced.Instruction) -> None:
    _privileged(p)
    if p.controls.cr >> 16 & 1:
        _leave(p, vmcb.EXIT_CR_WRITE)


def _smsw(p: GuestMode, instruction: iced.Instruction) -> None:
    if p.controls.cr & 1:
        _leave(p, vmcb.EXIT_CR_READ)


def _mov_dr(p: GuestMode, instruction: iced.Instruction) -> None:
    """All exceptions go first: those are left to the instruction itself."""
    _privileged(p)
    first = instruction.op_register(0)
    writes = Register.DR0 <= first <= Register.DR15
    number = (first if writes else instruction.op_register(1)) - Register.DR0
    if number > 7 or (number in (4, 5) and p.cr4 & CR4_DE) or p.dr[7] & DR7_GD:
        return
    if writes and number >= 4 and p.operand(instruction, 1) >> 32:
        return
    if p.controls.dr >> (16 if writes else 0) + number & 1:
        base = vmcb.EXIT_DR_WRITE if writes else vmcb.EXIT_DR_READ
        _leave(p, base + number, _assist(p, instruction, 1 if writes else 0))


# -- ports and MSRs (15.10, 15.11)

_IOIO, _MSR = vmcb.misc1("ioio"), vmcb.misc1("msr")
_SIZES = {Register.AL: 1, Register.AX: 2, Register.EAX: 4}
_STRINGS = {"insb": 1, "insw": 2, "insd": 4, "outsb": 1, "outsw": 2, "outsd": 4}
_ADDRESS = {
    OpKind.MEMORY_ESDI: 1, OpKind.MEMORY_SEG_SI: 1, OpKind.MEMORY_ESEDI: 2, OpKind.MEMORY_SEG_ESI: 2,
    OpKind.MEMORY_ESRDI: 4, OpKind.MEMORY_SEG_RSI: 4,
}  # fmt: skip


def _io(p: GuestMode, port: int, size: int, info: int) -> None:
    """Exceptions of the guest's own permission check go before the intercept; EXITINFO2 is the next rip (15.10.2)."""
    if not p.controls.misc1 & _IOIO:
        return
    p.check_io(port, size)
    place = (p.controls.iopm & ~0xFFF) + port // 8
    bits = int.from_bytes(p.ram[place : place + 2], "little") if p.is_ram(place + 1) else 0xFFFF
    if bits >> (port & 7) & ((1 << size) - 1):
        info |= port << vmcb.IOIO_PORT_SHIFT | size << vmcb.IOIO_SIZE_SHIFT
        _leave(p, vmcb.EXIT["ioio"], info, p.rip)


def _in_or_out(is_in: bool) -> Check:
    data, port_at = (0, 1) if is_in else (1, 0)

    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        by_register = instruction.op_kind(port_at) == OpKind.REGISTER
        port = p.register(RDX, 16) if by_register else instruction.immediate(port_at) & 0xFF
        _io(p, port, _SIZES[instruction.op_register(data)], vmcb.IOIO_IN if is_in else 0)

    return check


def _io_string(size: int, is_in: bool) -> Check:
    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        kind = instruction.op_kind(0 if is_in else 1)
        repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
        info = vmcb.IOIO_STRING | (vmcb.IOIO_IN if is_in else 0) | _ADDRESS[kind] << vmcb.IOIO_ADDRESS_SHIFT
        if repeated:
            if p.register(RCX, {1: 16, 2: 32, 4: 64}[_ADDRESS[kind]]) == 0:
                return
            info |= vmcb.IOIO_REPEAT
        if "DECODE_ASSISTS" in p.profile.svm_features:
            segment = ES if is_in else SEGMENT_NUMBERS[instruction.memory_segment]
            info |= segment << vmcb.IOIO_SEGMENT_SHIFT
        _io(p, p.register(RDX, 16), size, info)

    return check


def _msr(is_write: bool) -> Check:
    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        _privileged(p)
        if not p.controls.misc1 & _MSR:
            return
        bit = vmcb.msr_permission_bit(p.register(RCX, 32))
        if bit is not None:
            bit += is_write
            place = (p.controls.msrpm & ~0xFFF) + bit // 8
            if p.is_ram(place) and not p.ram[place] >> (bit & 7) & 1:
                return
        _leave(p, vmcb.EXIT["msr"], int(is_write))

    return check


# -- others with something of their own

_SWINT, _PAUSE = vmcb.misc1("swint"), vmcb.misc1("pause")
_MWAIT, _MWAIT_CONDITIONAL = vmcb.misc2("mwait"), vmcb.misc2("mwait_conditional")


def _int(p: GuestMode, instruction: iced.Instruction) -> None:
    if p.controls.misc1 & _SWINT:
        assisted = "DECODE_ASSISTS" in p.profile.svm_features
        _leave(p, vmcb.EXIT["swint"], instruction.immediate(0) & 0xFF if assisted else 0)


def _breakpoint(vector: int) -> Check:
    """INT3 and INTO are intercepted as the exceptions that they raise (15.12.4, 15.12.5)."""

    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        taken = vector == vectors.BP or p.rflags >> 11 & 1
        if taken and p.controls.exceptions >> vector & 1:
            _leave(p, vmcb.EXIT_EXCEPTION + vector)

    return check


def _pause(p: GuestMode, instruction: iced.Instruction) -> None:
    if p.controls.misc1 & _PAUSE and p.pause_runs_out():
        _leave(p, vmcb.EXIT["pause"])


def _mwait(p: GuestMode, instruction: iced.Instruction) -> None:
    """The monitor is always armed, for nobody else writes to memory here: so the conditional intercept goes first."""
    if p.controls.misc2 & (_MWAIT | _MWAIT_CONDITIONAL):
        _undefined_outside_cpl0(p)
        if p.register(RCX, 32) & ~1:
            raise Fault(vectors.GP, 0)
        name = "mwait_conditional" if p.controls.misc2 & _MWAIT_CONDITIONAL else "mwait"
        _leave(p, vmcb.EXIT[name])


def _on_vmcb(name: str) -> Check:
    """VMRUN, VMLOAD, VMSAVE: an address that cannot be a VMCB's is #GP(0), too (APM vol. 3)."""
    mask, code = vmcb.misc2(name), vmcb.EXIT[name]

    def check(p: GuestMode, instruction: iced.Instruction) -> None:
        if p.controls.misc2 & mask:
            _virtualization(p)
            place = p.register(RAX, _ADDRESS_BITS.get(instruction.code, 64))
            if place & 0xFFF or place >> p.profile.physical_bits:
                raise Fault(vectors.GP, 0)
            _leave(p, code)

    return check


_ADDRESS_BITS = {
    Code.VMRUNW: 16, Code.VMRUND: 32, Code.VMLOADW: 16, Code.VMLOADD: 32, Code.VMSAVEW: 16, Code.VMSAVED: 32,
}  # fmt: skip


def _invlpg(p: GuestMode, instruction: iced.Instruction) -> None:
    if not p.controls.misc1 & vmcb.misc1("invlpg"):
        return
    _privileged(p)
    address = 0
    if "DECODE_ASSISTS" in p.profile.svm_features:
        segment, offset = p.memory_operand(instruction)
        base = p.segments[segment].base if p.bits != 64 or segment >= 4 else 0
        address = base + offset & (0xFFFF_FFFF_FFFF_FFFF if p.bits == 64 else 0xFFFF_FFFF)
    _leave(p, vmcb.EXIT["invlpg"], address)


def _invlpga(p: GuestMode, instruction: iced.Instruction) -> None:
    if p.controls.misc1 & vmcb.misc1("invlpga"):
        _virtualization(p)
        _leave(p, vmcb.EXIT["invlpga"])  # the address is in rAX (15.8.3)


#: What native code carries out of MOV CRn, unless it is intercepted.
CONTROL_MOVES = tuple(f"{name}_python" for name in (*CONTROL_READS.values(), *CONTROL_WRITES.values()))
#: Form -> what is looked at before it is carried out in a guest.
CHECKS: Mapping[str, Check] = {
    **dict.fromkeys(("mov_cr", *CONTROL_MOVES), _mov_cr),
    "lmsw": _lmsw, "clts": _clts, "smsw": _smsw, "mov_dr": _mov_dr,
    "sidt": _in_first_word("idtr_read", _no_check), "sgdt": _in_first_word("gdtr_read", _no_check),
    "sldt": _in_first_word("ldtr_read", _protected_mode), "str": _in_first_word("tr_read", _protected_mode),
    "lidt": _in_first_word("idtr_write", _privileged), "lgdt": _in_first_word("gdtr_write", _privileged),
    "lldt": _in_first_word("ldtr_write", _protected_and_privileged),
    "ltr": _in_first_word("tr_write", _protected_and_privileged),
    "rdtsc_python": _in_first_word("rdtsc", _time_stamp), "rdpmc": _in_first_word("rdpmc", _counters),
    **{f"pushf{w}_python": _in_first_word("pushf", _no_check) for w in ("", "d", "q")},
    **{f"popf{w}_python": _in_first_word("popf", _no_check) for w in ("", "d", "q")},
    "cpuid": _in_first_word("cpuid", _no_check), "rsm": _in_first_word("rsm", _no_check),
    **{name: _in_first_word("iret", _no_check) for name in ("iret", "iretd", "iretq", "iretq_within_python")},
    "int": _int, "int3": _breakpoint(vectors.BP), "into": _breakpoint(vectors.OF),
    "invd": _in_first_word("invd", _privileged), "pause_python": _pause, "hlt": _in_first_word("hlt", _privileged),
    "invlpg": _invlpg, "invlpga": _invlpga,
    "in": _in_or_out(True), "out": _in_or_out(False),
    **{name: _io_string(size, name.startswith("in")) for name, size in _STRINGS.items()},
    "rdmsr": _msr(False), "wrmsr": _msr(True),
    "vmrun": _on_vmcb("vmrun"), "vmmcall": _in_second_word("vmmcall", _no_check),
    "vmload": _on_vmcb("vmload"), "vmsave": _on_vmcb("vmsave"), "skinit": _in_second_word("skinit", _virtualization),
    "stgi": _in_second_word("stgi", _virtualization), "clgi": _in_second_word("clgi", _virtualization),
    "rdtscp_python": _in_second_word("rdtscp", _time_stamp), "int1": _in_second_word("icebp", _no_check),
    "wbinvd": _in_second_word("wbinvd", _privileged), "monitor": _in_second_word("monitor", _monitor),
    "mwait": _mwait,
}  # fmt: skip

#: Intercepts that look at nothing but their bit: form -> exit code.
SIMPLE_EXITS = {"cpuid": vmcb.EXIT["cpuid"], "vmmcall": vmcb.EXIT["vmmcall"]}

#: What a deprivileged guest's code cannot carry out in place, though it would not fault there: replaced by a call of
#: the hypervisor when the code is translated. SYSCALL and software interrupts would enter a kernel that is not there.
SENSITIVE = frozenset((
    "iret", "iretd", "iretq", "retf", "jmp_far", "call_far", "lar", "lsl", "verr", "verw", "int", "int3", "into",
    "int1", "syscall", "syscall_long_python", "sysenter", "sysret", "sysretq", "sysexit", "sysexitq",
))  # fmt: skip


def _call_out(p: GuestMode, instruction: iced.Instruction) -> None:
    _leave(p, vmcb.EXIT_CALLOUT)


def _call_out_for_stack(p: GuestMode, instruction: iced.Instruction) -> None:
    """A load of SS must match the kernel's own level exactly; of other segments a lower one may be loaded, too."""
    if p.deprivileged and (instruction.mnemonic == Mnemonic.LSS or instruction.op_register(0) == Register.SS):
        _leave(p, vmcb.EXIT_CALLOUT)


Forms = Mapping[str, PythonForm]


class _Remembered:
    """What `make` makes of a mapping of forms, made once for each mapping."""

    def __init__(self, make: Callable[[Forms], Forms]) -> None:
        self._make = make
        #: By identity: (the mapping, which so stays the only one of that identity, and what was made of it).
        self._made: dict[int, tuple[Forms, Forms]] = {}

    def __call__(self, forms: Forms) -> Forms:
        known = self._made.get(id(forms))
        if known is None:
            if len(self._made) > 64:
                self._made.clear()
            known = self._made[id(forms)] = forms, self._make(forms)
        return known[1]


def _with_intercepts(forms: Forms) -> Forms:
    return {name: _guarded(CHECKS[name], form) if name in CHECKS else form for name, form in forms.items()}


def _with_callouts(forms: Forms) -> Forms:
    return {
        **guest_forms(forms),
        **{name: _guarded(_call_out, forms[name]) for name in SENSITIVE},
        **{name: _guarded(_call_out_for_stack, forms[name]) for name in ("mov_sreg", "pop_sreg", "lss")},
    }


#: The same forms with their intercepts in front.
guest_forms = _Remembered(_with_intercepts)
#: The forms of guest_forms with calls of the hypervisor in place of sensitive instructions.
translated_forms = _Remembered(_with_callouts)


def _guarded(check: Check, form: PythonForm) -> PythonForm:
    def carry_out(p: GuestMode, instruction: iced.Instruction) -> None:
        check(p, instruction)
        form(p, instruction)  # type: ignore[arg-type]

    return carry_out  # type: ignore[return-value]
