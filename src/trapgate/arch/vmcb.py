"""AMD-V as data: the virtual machine control block, exit codes, and CPUID's list of what is there.

Source: APM vol. 2 (24593), chapter 15 "Secure Virtual Machine" and appendix B "Layout of VMCB". Offsets are bytes from
the VMCB's start, fields 64 bits wide where nothing else is said.
"""

from __future__ import annotations

from typing import NamedTuple

SIZE = 4096

# -- Control area (appendix B, table B-1)

#: Bits 15:0 reads, 31:16 writes of CR0 to CR15; the next word has those of DR0 to DR15. 32 bits each.
INTERCEPT_CR = 0x000
INTERCEPT_DR = 0x004
#: Bit n: exception vector n. 32 bits.
INTERCEPT_EXCEPTIONS = 0x008
#: 32 bits each: bit n of the first word has exit code 60h + n, of the second 80h + n.
INTERCEPT_MISC1 = 0x00C
INTERCEPT_MISC2 = 0x010
#: 16 bits each.
PAUSE_FILTER_THRESHOLD = 0x03C
PAUSE_FILTER_COUNT = 0x03E
IOPM_BASE_PA = 0x040
MSRPM_BASE_PA = 0x048
TSC_OFFSET = 0x050
#: 32 bits.
ASID = 0x058
#: 8 bits.
TLB_CONTROL = 0x05C
#: The virtual interrupt's word: V_TPR 7:0, V_IRQ 8, V_INTR_PRIO 19:16, V_IGN_TPR 20, V_INTR_MASKING 24, vector 39:32.
VIRTUAL_INTERRUPT = 0x060
#: Bit 0.
INTERRUPT_SHADOW = 0x068
EXITCODE = 0x070
EXITINFO1 = 0x078
EXITINFO2 = 0x080
EXITINTINFO = 0x088
#: Bit 0: nested paging.
NESTED_CONTROL = 0x090
EVENTINJ = 0x0A8
N_CR3 = 0x0B0
#: Bit 0.
LBR_CONTROL = 0x0B8
#: 32 bits.
CLEAN_BITS = 0x0C0
NEXT_RIP = 0x0C8
#: One byte: how many instruction bytes follow (15 bytes at 0D1h).
FETCHED_COUNT = 0x0D0
FETCHED_BYTES = 0x0D1

V_TPR_MASK = 0xFF
V_IRQ = 1 << 8
V_PRIORITY_SHIFT = 16
V_IGNORE_TPR = 1 << 20
V_INTR_MASKING = 1 << 24
V_VECTOR_SHIFT = 32

# -- State save area (table B-2). A segment: selector (16 bits), attributes (16), limit (32), base (64).

ES, CS, SS, DS, FS, GS = 0x400, 0x410, 0x420, 0x430, 0x440, 0x450
GDTR, LDTR, IDTR, TR = 0x460, 0x470, 0x480, 0x490
SEGMENT_ATTRIBUTES, SEGMENT_LIMIT, SEGMENT_BASE = 2, 4, 8
#: 8 bits.
CPL = 0x4CB
EFER = 0x4D0
CR4, CR3, CR0 = 0x548, 0x550, 0x558
DR7, DR6 = 0x560, 0x568
RFLAGS, RIP, RSP, RAX = 0x570, 0x578, 0x5D8, 0x5F8
STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE = 0x600, 0x608, 0x610, 0x618, 0x620
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 0x628, 0x630, 0x638
CR2 = 0x640
G_PAT = 0x668
DBGCTL, BR_FROM, BR_TO, LAST_EXCEPTION_FROM, LAST_EXCEPTION_TO = 0x670, 0x678, 0x680, 0x688, 0x690

# -- Exit codes (appendix C). 64 bits.

EXIT_CR_READ = 0x00
EXIT_CR_WRITE = 0x10
EXIT_DR_READ = 0x20
EXIT_DR_WRITE = 0x30
EXIT_EXCEPTION = 0x40
EXIT_NPF = 0x400
EXIT_INVALID = (1 << 64) - 1
#: Not AMD-V's: how a guest without it (technique `software`) comes to its hypervisor besides by exceptions. A sensitive
#: instruction that was replaced when its code was translated; the end of a stretch that the hypervisor interprets.
EXIT_CALLOUT, EXIT_INTERPRETED = 0x1_0000, 0x1_0001

#: Names of the intercepts in their words' order; exit code 60h + bit and 80h + bit (tables 15-7 and C-1).
MISC1 = (
    "intr", "nmi", "smi", "init", "vintr", "cr0_sel_write", "idtr_read", "gdtr_read", "ldtr_read", "tr_read",
    "idtr_write", "gdtr_write", "ldtr_write", "tr_write", "rdtsc", "rdpmc", "pushf", "popf", "cpuid", "rsm", "iret",
    "swint", "invd", "pause", "hlt", "invlpg", "invlpga", "ioio", "msr", "task_switch", "ferr_freeze", "shutdown",
)  # fmt: skip
MISC2 = (
    "vmrun", "vmmcall", "vmload", "vmsave", "stgi", "clgi", "skinit", "rdtscp", "icebp", "wbinvd", "monitor", "mwait",
    "mwait_conditional",
)  # fmt: skip
#: Exit code of an intercept by its name.
EXIT = {name: 0x60 + i for i, name in enumerate(MISC1)} | {name: 0x80 + i for i, name in enumerate(MISC2)}


def misc1(*names: str) -> int:
    """The first instruction intercept word with these intercepts."""
    return sum(1 << MISC1.index(name) for name in names)


def misc2(*names: str) -> int:
    """The second instruction intercept word with these intercepts."""
    return sum(1 << MISC2.index(name) for name in names)


def exit_name(code: int) -> str:
    """What tables and reports call an exit code, e.g. "cr3_write", "exception_14", "npf"."""
    if code == EXIT_INVALID:
        return "invalid"
    if code == EXIT_NPF:
        return "npf"
    if code in (EXIT_CALLOUT, EXIT_INTERPRETED):
        return "callout" if code == EXIT_CALLOUT else "interpreted"
    if code < 0x40:
        register = "cr" if code < 0x20 else "dr"
        return f"{register}{code & 0xF}_{'write' if code & 0x10 else 'read'}"
    if code < 0x60:
        return f"exception_{code - 0x40}"
    return _NAMES.get(code, f"exit_{code:#x}")


_NAMES = {code: name for name, code in EXIT.items()}

# -- Event injection and EXITINTINFO (15.20 and 15.7.2)

EVENT_VALID = 1 << 31
EVENT_ERROR_VALID = 1 << 11
EVENT_TYPE_SHIFT = 8
EVENT_ERROR_SHIFT = 32
EVENT_INTR, EVENT_NMI, EVENT_EXCEPTION, EVENT_SOFTWARE = 0, 2, 3, 4

# -- EXITINFO1 of IOIO (15.10.2), nested page faults (15.25.6), task switches (15.14.1)

IOIO_IN, IOIO_STRING, IOIO_REPEAT = 1 << 0, 1 << 2, 1 << 3
#: Operand sizes: bits 4, 5, 6 for 1, 2, 4 bytes; address sizes: bits 7, 8, 9 for 16, 32, 64 bits; port in bits 31:16.
IOIO_SIZE_SHIFT, IOIO_ADDRESS_SHIFT, IOIO_SEGMENT_SHIFT, IOIO_PORT_SHIFT = 4, 7, 10, 16
#: Besides the bits of a page-fault error code:
NPF_FINAL, NPF_TABLE = 1 << 32, 1 << 33
#: In EXITINFO2.
TASK_SWITCH_IRET, TASK_SWITCH_JUMP, TASK_SWITCH_ERROR, TASK_SWITCH_RF = 1 << 36, 1 << 38, 1 << 44, 1 << 48
#: In EXITINFO1 of an SMI (15.13.3): it came from outside.
SMI_EXTERNAL = 1 << 0

# -- TLB_CONTROL (15.16.2)

FLUSH_NOTHING, FLUSH_ALL, FLUSH_GUEST, FLUSH_GUEST_NON_GLOBAL = 0, 1, 3, 7

# -- Permission maps (15.10.1, 15.11)

IOPM_SIZE, MSRPM_SIZE = 3 * 4096, 2 * 4096

# -- Model-specific registers (15.30)

MSR_VM_CR, MSR_IGNNE, MSR_SMM_CTL, MSR_VM_HSAVE_PA, MSR_SVM_KEY = (
    0xC001_0114,
    0xC001_0115,
    0xC001_0116,
    0xC001_0117,
    0xC001_0118,
)
SVM_MSRS = frozenset((MSR_VM_CR, MSR_IGNNE, MSR_SMM_CTL, MSR_VM_HSAVE_PA, MSR_SVM_KEY))
#: SMM_CTL (15.30.3).
SMM_CTL_DISMISS, SMM_CTL_ENTER, SMM_CTL_SMI_CYCLE, SMM_CTL_EXIT, SMM_CTL_RSM_CYCLE = (1 << bit for bit in range(5))
SMM_CTL_BITS = 0x1F
VM_CR_DPD, VM_CR_R_INIT, VM_CR_DIS_A20M, VM_CR_LOCK, VM_CR_SVMDIS = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4

# -- CPUID Fn8000_000A (25481, 2.2): flags in EDX

FEATURES = {
    "NP": 0, "LBR_VIRT": 1, "SVM_LOCK": 2, "NRIP_SAVE": 3, "TSC_RATE": 4, "VMCB_CLEAN": 5, "FLUSH_BY_ASID": 6,
    "DECODE_ASSISTS": 7, "PAUSE_FILTER": 10, "PAUSE_FILTER_THRESHOLD": 12,
}  # fmt: skip


class MsrRange(NamedTuple):
    """A range of MSRs in the permission map: first number, and the byte at which its bits begin."""

    first: int
    offset: int


#: Two bits an MSR: read, then write. MSRs outside these ranges are always intercepted (15.11).
MSR_RANGES = (MsrRange(0x0000_0000, 0x0000), MsrRange(0xC000_0000, 0x0800), MsrRange(0xC001_0000, 0x1000))
MSRS_IN_RANGE = 0x2000


def msr_permission_bit(number: int) -> int | None:
    """The place (in bits) of an MSR's read bit in the permission map; the write bit follows.

    None: always intercepted.
    """
    for first, offset in MSR_RANGES:
        if first <= number < first + MSRS_IN_RANGE:
            return offset * 8 + 2 * (number - first)
    return None
