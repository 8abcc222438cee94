"""The processor's state as native code sees it: one block of host memory, every field at a fixed offset in bytes.

Python reads and writes the same block through `memoryview`s. Fields that only Python needs are attributes of the
processor instead. Offsets of fields that operand slots of micro-ops name (registers, segments) stay below 65536.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from trapgate.arch.registers import GPR_NAMES, SEGMENT_NAMES

_fields: dict[str, int] = {}
_next = 0


def _field(name: str, size: int = 8, align: int = 8) -> int:
    global _next
    _next = (_next + align - 1) // align * align
    _fields[name] = _next
    _next += size
    return _fields[name]


GPR = _field("gpr", 16 * 8)
#: Always 0: the base register of addresses that have none.
ZERO = _field("zero")
#: Instruction pointer, valid when native code says so on leaving (exit LOOKUP), and while Python runs.
RIP = _field("rip")

# Lazy arithmetic flags: ZF = (flag_zero == 0); SF = bit 63 of flag_sign, PF = even parity of its low byte; CF = bit 63
# of flag_carry, OF = bit 63 xor bit 62, AF = bit 3.
FLAG_ZERO = _field("flag_zero")
FLAG_SIGN = _field("flag_sign")
FLAG_CARRY = _field("flag_carry")
#: RFLAGS without the arithmetic flags.
SYSTEM_FLAGS = _field("system_flags")

EXIT_UOP = _field("exit_uop")
EXIT_BUDGET = _field("exit_budget")
FAULT_VECTOR = _field("fault_vector")
FAULT_ERROR = _field("fault_error")
FAULT_ADDRESS = _field("fault_address")
#: Not 0 when the processor must look for an interrupt as soon as IF allows one.
INTERRUPT_PENDING = _field("interrupt_pending")
#: Not 0 in a guest of AMD-V: STI then leaves native code, so that an exit right behind it knows of its shadow.
IN_GUEST = _field("in_guest")
#: Modelled cycle at which the cycle part of the budget is 0, plus the TSC's offset: TSC = this - (budget >> 32).
TSC_AT_ZERO = _field("tsc_at_zero")
#: Host addresses of the fast tables in use.
DTLB = _field("dtlb")
ITLB = _field("itlb")
#: Base of CS as linear addresses of code need it (0 in 64-bit mode).
CODE_BASE = _field("code_base")
#: Highest offset in CS (16- and 32-bit code).
CODE_LIMIT = _field("code_limit")
#: 16, 32 or 64: the code segment's default size.
CODE_BITS = _field("code_bits")
KERNEL_GS_BASE = _field("kernel_gs_base")
#: Current privilege level. Native code changes it too: who keeps what follows from it looks after each run.
CPL = _field("cpl")
#: Base and limit of TR's hidden part.
TSS_BASE = _field("tss_base")
TSS_LIMIT = _field("tss_limit")
#: MSRs that system calls need (cpu/state.py keeps them in step with the others).
STAR = _field("star")
LSTAR = _field("lstar")
SFMASK = _field("sfmask")

# Native code goes between CPL 0 and CPL 3 of 64-bit mode by itself while this is not 0: then the two records hold what
# is in use at each: DTLB, ITLB, JUMP_CACHE.
PRIVILEGES_VALID = _field("privileges_valid")
PRIVILEGE_SIZE = 24
PRIVILEGES = _field("privileges", 2 * PRIVILEGE_SIZE)

# Segments as native code checks them: base; lowest valid offset; highest valid offset for reads and for writes (signed,
# -1: none). In 64-bit mode only the base of FS and GS counts.
SEGMENT_SIZE = 32
SEGMENT_BASE, SEGMENT_LOW, SEGMENT_HIGH_READ, SEGMENT_HIGH_WRITE = 0, 8, 16, 24
SEGMENTS = _field("segments", 6 * SEGMENT_SIZE)

#: Selectors of ES, CS, SS, DS, FS, GS; attributes and limits (in bytes) of their hidden parts (cpu/state.py).
SELECTORS = _field("selectors", 6 * 8)
ATTRIBUTES = _field("attributes", 6 * 8)
LIMITS = _field("limits", 6 * 8)
#: The descriptors that CS and SS were loaded from (all ones when they were not loaded from one).
CODE_DESCRIPTOR = _field("code_descriptor")
STACK_DESCRIPTOR = _field("stack_descriptor")
GDTR_BASE = _field("gdtr_base")
GDTR_LIMIT = _field("gdtr_limit")
IDTR_BASE = _field("idtr_base")
IDTR_LIMIT = _field("idtr_limit")
TSC_AUX = _field("tsc_aux")

# Control registers as the page walker needs them.
CR0 = _field("cr0")
CR3 = _field("cr3")
CR4 = _field("cr4")
EFER = _field("efer")
CR2 = _field("cr2")
PDPTE = _field("pdpte", 4 * 8)
ASID = _field("asid")
#: Guest-physical bits that are reserved in page-table entries (1 = reserved), without NX.
RESERVED_BITS = _field("reserved_bits")
A20_MASK = _field("a20_mask")
#: 4 while the processor runs at CPL 3, else 0: the user bit of accesses.
USER = _field("user")
#: PDPTE bit 7 where the processor has no 1 GB pages, else 0; reserved bits of a 4 MB page's entry.
RESERVED_IN_PDPTE = _field("reserved_in_pdpte")
RESERVED_IN_4MB = _field("reserved_in_4mb")
#: Nested paging (APM vol. 2, 15.25): not 0 in a guest that has it; the nested tables' CR3, and CR4 and EFER of the
#: host, which say in which format they are.
NESTED = _field("nested")
NESTED_CR3 = _field("nested_cr3")
HOST_CR4 = _field("host_cr4")
HOST_EFER = _field("host_efer")
#: Not 0 while every data access must take the slow path (alignment checks, data breakpoints).
WATCH_DATA = _field("watch_data")
#: Not 0 while misaligned accesses raise #AC (CR0.AM, RFLAGS.AC, CPL 3).
ALIGNMENT_CHECK = _field("alignment_check")
#: Data breakpoints: first and last linear address, and the accesses that hit (1 writes, 2 reads; 0: not in use).
WATCH_SIZE = 24
WATCH_FIRST, WATCH_LAST, WATCH_KINDS = 0, 8, 16
WATCHES = _field("watches", 4 * WATCH_SIZE)
#: Bit n: the current instruction has hit data breakpoint n.
WATCH_HITS = _field("watch_hits")
#: Not 0 while instructions run one at a time: then a hit is noted, else the instruction is left to be run that way.
STEPPING = _field("stepping")
#: 1 while NMIs wait because the handler of one has not yet returned by IRET (APM vol. 2, 8.2.3), else 0.
NMI_BLOCKED = _field("nmi_blocked")
#: Exception flags (MXCSR's bits 5:0) of an SSE instruction that raises an unmasked exception.
SIMD_FLAGS = _field("simd_flags")

# World switches (cpu/svm/world_switch.py). The VMCB in question (host-physical address), and what plain Python knows of
# the guest and the native code is to save.
WORLD_VMCB = _field("world_vmcb")
WORLD_DR6 = _field("world_dr6")
WORLD_DR7 = _field("world_dr7")
WORLD_PAT = _field("world_pat")
#: Which VMCBs (address + 1, 0: none) the two copies below are of: its control area as it was when VMRUN accepted it,
#: and its state save area as #VMEXIT left it, with the guest's state still in the registers.
WORLD_CONTROLS_OF = _field("world_controls_of")
WORLD_STATE_OF = _field("world_state_of")
WORLD_CONTROLS = _field("world_controls", 20 * 8)
WORLD_STATE = _field("world_state", 16 * 8)
#: Of `world_run`: the budget, and which #VMEXITs it does itself: 0 none, 1 those of `world_switch.simple_exit`, 3 those
#: with nRIP saved.
WORLD_BUDGET = _field("world_budget")
WORLD_EXITS = _field("world_exits")
#: RFLAGS without the arithmetic flags, as #VMEXIT left it.
WORLD_FLAGS = _field("world_flags")
#: The host's fields of this block while its guest runs, and that guest's while the host runs.
WORLD_HOST = _field("world_host", 80 * 8)
WORLD_GUEST = _field("world_guest", 80 * 8)

# Guest RAM (see machine/memory.py)
RAM_BASE = _field("ram_base")
PAGE_KIND = _field("page_kind")
CODE_MAP = _field("code_map")
PAGE_COUNT = _field("page_count")

# Addresses of functions that handlers call.
SLOW_ACCESS = _field("slow_access")
COMMIT = _field("commit")
FETCH_PAGE = _field("fetch_page")
FLUSH = _field("flush")
ON_DEVICE_READ = _field("on_device_read")
ON_DEVICE_WRITE = _field("on_device_write")
ON_CODE_WRITE = _field("on_code_write")
#: Host address of the jump cache of the current mode.
JUMP_CACHE = _field("jump_cache")
# One for each mode: where the blocks are that indirect branches went to. Entry: rip, address of the header.
JUMP_CACHE_BITS = 14
JUMP_CACHE_ENTRY = 16
JUMP_CACHE_SIZE = JUMP_CACHE_ENTRY << JUMP_CACHE_BITS
#: Address of the handler that finds where an indirect branch goes when the jump cache does not know it.
LOOKUP = _field("lookup")
#: Host address of the log of links and indirect branches (engine/block_table.py).
LINK_LOG = _field("link_log")

# A slow access that is not plain RAM goes through this buffer.
BOUNCE = _field("bounce", 576, 64)
BOUNCE_KIND = _field("bounce_kind")  # 0 nothing to commit, 1 Python commits it, 2 two pages of RAM
BOUNCE_SIZE = _field("bounce_size")
BOUNCE_FIRST = _field("bounce_first")  # guest-physical address of the first part
BOUNCE_SECOND = _field("bounce_second")  # guest-physical address of the second part
BOUNCE_SPLIT = _field("bounce_split")  # bytes in the first part
TRANSLATED = _field("translated")  # guest-physical address of the last translation
# Result of the last walk.
WALK_PAGE = _field("walk_page")
WALK_MASK = _field("walk_mask")
WALK_RIGHTS = _field("walk_rights")
#: Modelled cycles that the current slow access has cost so far.
STALL = _field("stall")
COST_L2_HIT = _field("cost_l2_hit")
#: Not 0 while the TLB is no model: fast entries are made from level 2 and from walks, and stay until a flush.
UNMODELLED = _field("unmodelled")
#: Of a reference that the page walk cache holds, and in place of a nested walk that the nested TLB saves.
COST_PWC_HIT = _field("cost_pwc_hit")
COST_NESTED_TLB_HIT = _field("cost_nested_tlb_hit")
#: Entries in use of the page walk cache and of the nested TLB (at most those of the geometry); 0: there is none.
PWC_SIZE = _field("pwc_size")
NESTED_TLB_SIZE = _field("nested_tlb_size")

# Floating point
FPR = _field("fpr", 8 * 16, 16)
FPU_CONTROL = _field("fpu_control", 2, 2)
FPU_STATUS = _field("fpu_status", 2, 2)  # without TOP
FPU_TOP = _field("fpu_top", 4, 4)
#: One byte each: 1 = the physical register holds a value, 0 = empty.
FPU_VALID = _field("fpu_valid", 8)
FPU_OPCODE = _field("fpu_opcode")
FPU_IP = _field("fpu_ip")
FPU_DP = _field("fpu_dp")
FPU_CS = _field("fpu_cs")
FPU_DS = _field("fpu_ds")
XMM = _field("xmm", 16 * 16, 16)
MXCSR = _field("mxcsr", 4, 4)
HOST_MXCSR = _field("host_mxcsr", 4, 4)
HOST_FPU_CONTROL = _field("host_fpu_control", 4, 4)
#: The guest's x87 control word with all exceptions masked, as the host's unit runs with it.
FPU_CONTROL_MASKED = _field("fpu_control_masked", 4, 4)
FPU_SCRATCH = _field("fpu_scratch", 64, 16)

# Counters (u64 each); see cpu/tlb.py
COUNTER_NAMES = (
    "itlb_l2_hits", "itlb_misses", "itlb_walk_references",
    "dtlb_l2_hits", "dtlb_misses", "dtlb_walk_references",
    "itlb_nested_references", "dtlb_nested_references", "pwc_hits", "nested_tlb_hits",
    "walk_l1_hits", "walk_l2_hits", "walk_l3_hits", "walk_memory_references", "walk_references_lost_to_exits",
    "tlb_flushes", "tlb_page_flushes", "page_crossings", "device_accesses", "jump_cache_misses",
)  # fmt: skip
COUNTERS = _field("counters", len(COUNTER_NAMES) * 8)
#: Those of them that are about address translation.
TLB_COUNTER_NAMES = tuple(name for name in COUNTER_NAMES if "tlb" in name or name.startswith(("pwc_", "walk_")))

# What RESET# leaves alone.
#: How often native code has loaded CS or SS.
SEGMENT_LOADS = _field("segment_loads")
#: Page faults that native code has delivered, and the last of them: error code, rip, linear address each.
FAULTS_DELIVERED = _field("faults_delivered")
LOGGED_FAULTS = 8
LOGGED_FAULT_SIZE = 24
FAULT_LOG = _field("fault_log", LOGGED_FAULTS * LOGGED_FAULT_SIZE)
#: Not 0 while no hypervisor has to hear of a page fault; not 0 while somebody outside has to.
DELIVERS_FAULTS = _field("delivers_faults")
SEES_FAULTS = _field("sees_faults")
COST_EXCEPTION = _field("cost_exception")
#: Not 0 when a translation for the delivery of a page fault has faulted, which Python then repeats: which one (linear
#: address, access), and its fault. KNOWN_STALL: the cycles of what native code has translated before it gave up.
KNOWN_FAULT = _field("known_fault")
KNOWN_LINEAR = _field("known_linear")
KNOWN_ACCESS = _field("known_access")
KNOWN_VECTOR = _field("known_vector")
KNOWN_ERROR = _field("known_error")
KNOWN_ADDRESS = _field("known_address")
KNOWN_STALL = _field("known_stall")
#: Host addresses of the arena of records and of the table beside it (engine/record.py).
ARENA = _field("arena")
SIDE_TABLE = _field("side_table")
_field("end_of_registers")

#: Where the tables of the modelled TLB start (cpu/tlb.py lays them out); page-aligned.
TLB_TABLES = 8192
assert _next < TLB_TABLES


class _Word(Protocol):
    """A number, or a value of generated code (isa/ir)."""

    def __xor__(self, other: Any, /) -> Any: ...
    def __and__(self, other: Any, /) -> Any: ...
    def __rshift__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


_W = TypeVar("_W", bound=_Word)


def jump_cache_offset(rip: _W) -> _W:
    """Bytes from the start of a jump cache to the entry of a rip."""
    offset: _W = ((rip ^ (rip >> JUMP_CACHE_BITS)) & ((1 << JUMP_CACHE_BITS) - 1)) * JUMP_CACHE_ENTRY
    return offset


def gpr(number: int) -> int:
    """Offset of general-purpose register `number` (0 rax ... 15 r15)."""
    return GPR + 8 * number


GPR_OFFSETS = {name: gpr(i) for i, name in enumerate(GPR_NAMES)}


def segment(number: int) -> int:
    """Offset of segment `number` (ES, CS, SS, DS, FS, GS)."""
    return SEGMENTS + SEGMENT_SIZE * number


def selector(number: int) -> int:
    """Offset of the selector of segment `number`."""
    return SELECTORS + 8 * number


def attributes(number: int) -> int:
    """Offset of the attributes of segment `number`."""
    return ATTRIBUTES + 8 * number


def limit(number: int) -> int:
    """Offset of the limit of segment `number`."""
    return LIMITS + 8 * number


SEGMENT_OFFSETS = {name: segment(i) for i, name in enumerate(SEGMENT_NAMES)}


def xmm(number: int) -> int:
    """Offset of XMM register `number`."""
    return XMM + 16 * number


def fpr(number: int) -> int:
    """Offset of physical x87 register `number`; MMX register `number` is its low 8 bytes."""
    return FPR + 16 * number


def counter(name: str) -> int:
    """Offset of a counter."""
    return COUNTERS + 8 * COUNTER_NAMES.index(name)
