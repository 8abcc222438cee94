"""CPU profiles: CPUID agrees with the instructions that exist; what is missing raises #UD or #GP."""

from __future__ import annotations

import pytest

from trapgate.arch import layout
from trapgate.arch.cpuid import PROFILES
from trapgate.arch.profiles.profile import ECX_1, ECX_8, EDX_1, EDX_8
from trapgate.arch.registers import CR0_PG, CR4_PAE, CR4_PSE
from trapgate.arch.vectors import GP, PF, UD
from trapgate.cpu.faults import Fault
from trapgate.engine.handlers import HandlerStore

from .bench import TABLES, Bench

NAMES = sorted(PROFILES)
#: CPUID flag -> instruction feature (iced-x86) that it promises.
SAME = {
    "FPU": "FPU", "TSC": "TSC", "MSR": "MSR", "CX8": "CX8", "SEP": "SEP", "CMOV": "CMOV", "CLFSH": "CLFSH",
    "MMX": "MMX", "FXSR": "FXSR", "SSE": "SSE", "SSE2": "SSE2", "SSE3": "SSE3", "MONITOR": "MONITOR",
    "CMPXCHG16B": "CMPXCHG16B", "POPCNT": "POPCNT", "SYSCALL": "SYSCALL", "RDTSCP": "RDTSCP", "LM": "X64",
    "LZCNT": "LZCNT", "SSE4A": "SSE4A", "PREFETCHW": "PREFETCHW", "SVM": "SVM",
}  # fmt: skip
#: Instructions that some profiles lack: feature -> bytes.
INSTRUCTIONS = {
    "TSC": "0f31", "CX8": "0fc70d00800000", "CMOV": "0f44c0", "MMX": "0f77", "SSE": "0f58c0", "SSE2": "660f58c0",
    "SSE3": "f20f7cc0", "SSE4A": "f20f79c1", "POPCNT": "f30fb8c0", "RDPMC": "0f33", "MULTIBYTENOP": "0f1fc0",
    "FXSR": "0fae0500800000", "CLFSH": "0fae3d00800000", "PREFETCHW": "0f0d0d00800000", "RDTSCP": "0f01f9",
    "SSSE3": "0f3800c0", "D3NOW": "0f0fc09e",
}  # fmt: skip
CR4_BY_FLAG = {
    0: "VME", 1: "VME", 2: "TSC", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 9: "FXSR", 10: "SSE"
}  # fmt: skip


@pytest.fixture(params=NAMES)
def any_bench(request: pytest.FixtureRequest, handlers: HandlerStore) -> Bench:
    return Bench(PROFILES[request.param], handlers)


def _caught(bench: Bench, call: str, *arguments: int) -> int | None:
    try:
        getattr(bench.processor, call)(*arguments)
    except Fault as fault:
        return fault.vector
    return None


@pytest.mark.parametrize("name", NAMES)
def test_cpuid_agrees_with_the_instructions(name: str) -> None:
    profile = PROFILES[name]
    for flag, feature in SAME.items():
        assert (flag in profile.flags) == profile.has(feature), flag
    known = {*EDX_1, *ECX_1, *EDX_8, *ECX_8}
    assert profile.flags <= known
    _, _, ecx, edx = profile.cpuid(1)
    for flag in EDX_1:
        assert bool(edx >> EDX_1[flag] & 1) == (flag in profile.flags)
    for flag in ECX_1:
        assert bool(ecx >> ECX_1[flag] & 1) == (flag in profile.flags)
    if profile.flags & {*EDX_8, *ECX_8}:
        assert profile.cpuid(0x8000_0008)[0] & 0xFF == profile.physical_bits
        assert profile.cpuid(0x8000_0001)[3] >> 29 & 1 == ("LM" in profile.flags)


def test_signatures() -> None:
    families = {name: PROFILES[name].signature >> 8 & 0xF for name in NAMES}
    assert families == {"486": 4, "pentium": 5, "pentium3": 6, "opteron-2006": 15, "opteron-2007": 15}
    assert PROFILES["opteron-2007"].signature >> 20 & 0xFF == 1
    vendors = {name: PROFILES[name].cpuid(0)[1].to_bytes(4, "little") for name in NAMES}
    assert {name for name, text in vendors.items() if text == b"Auth"} == {"opteron-2006", "opteron-2007"}


def test_leaves_beyond_the_last() -> None:
    """AP-485, 3.1.1: Intel's return the last standard leaf; AMD's are zero."""
    assert PROFILES["pentium3"].cpuid(0x8000_0000) == PROFILES["pentium3"].cpuid(2)
    assert PROFILES["486"].cpuid(7) == PROFILES["486"].cpuid(1)
    assert PROFILES["opteron-2006"].cpuid(0x8000_000B) == (0, 0, 0, 0)
    assert PROFILES["opteron-2007"].cpuid(7) == (0, 0, 0, 0)


def test_missing_instructions_raise_ud(any_bench: Bench) -> None:
    profile = any_bench.processor.profile
    for feature, code in INSTRUCTIONS.items():
        any_bench.prepare32()
        got = any_bench.run(code)
        # 0F 0D is a NOP for Intel where 0F 1F is.
        if profile.has(feature) or (feature == "PREFETCHW" and profile.has("MULTIBYTENOP")):
            assert got is None or got.vector != UD, (feature, got)
        else:
            assert got is not None, feature
            assert got.vector == UD, (feature, got)
            assert got.rip == 0x1000


def test_syscall_and_sysenter(any_bench: Bench) -> None:
    """SYSCALL is #UD on Intel's 32-bit processors and without EFER.SCE; SYSENTER is #GP(0) with CS = 0."""
    any_bench.prepare32()
    got = any_bench.run("0f05")
    assert got is not None
    assert got.vector == UD
    got = any_bench.prepare32().run("0f34")
    assert got is not None
    assert got.vector == (GP if any_bench.processor.profile.has("SEP") else UD)


def test_lzcnt_is_bsr_where_it_is_missing(any_bench: Bench) -> None:
    any_bench.prepare32().set(rcx=0x0001_0000)
    assert any_bench.run("f30fbdc1") is None
    assert any_bench.get("rax") == (15 if any_bench.processor.profile.has("LZCNT") else 16)


def test_cr4_bits(any_bench: Bench) -> None:
    """APM vol. 2, 3.1.3: reserved bits raise #GP(0)."""
    profile = any_bench.processor.profile
    for bit in range(32):
        any_bench.prepare32()
        any_bench.set(rax=1 << bit)
        got = any_bench.run("0f22e0")  # mov cr4, eax
        exists = CR4_BY_FLAG.get(bit) in profile.flags if bit != 8 else profile.has("RDPMC")
        assert (got is None) == exists, bit
        assert got is None or (got.vector, got.error) == (GP, 0)


def test_efer(any_bench: Bench) -> None:
    profile = any_bench.processor.profile
    any_bench.prepare32()
    for bit, flag in ((0, "SYSCALL"), (8, "LM"), (11, "NX"), (14, "FFXSR"), (12, "SVM"), (1, ""), (20, "")):
        assert (_caught(any_bench, "write_msr", 0xC000_0080, 1 << bit) is None) == (flag in profile.flags), bit
    assert (_caught(any_bench, "read_msr", 0xC000_0080) is None) == ("SYSCALL" in profile.flags)


def test_msrs(any_bench: Bench) -> None:
    profile = any_bench.processor.profile
    any_bench.prepare32().set(rcx=0x10)
    got = any_bench.run("0f32")  # rdmsr
    assert (got.vector if got else None) == (None if profile.has("MSR") else UD)
    for number, flag in ((0x1B, "APIC"), (0x277, "PAT"), (0xFE, "MTRR"), (0x200, "MTRR"), (0x179, "MCA"),
                         (0x400, "MCA"), (0x174, "SEP"), (0xC000_0081, "SYSCALL"), (0xC000_0100, "LM"),
                         (0xC000_0103, "RDTSCP"), (0xDEAD, "")):  # fmt: skip
        if number == 0x1B:
            continue  # needs a local APIC
        assert (_caught(any_bench, "read_msr", number) is None) == (flag in profile.flags), hex(number)
    if "MTRR" in profile.flags:
        assert _caught(any_bench, "write_msr", 0xFE, 0) == GP
        any_bench.processor.write_msr(0x2FF, 0xC06)
        assert any_bench.processor.read_msr(0x2FF) == 0xC06
        assert any_bench.processor.read_msr(0x277) == 0x0007_0406_0007_0406


def test_rdpmc_reads_the_counters(any_bench: Bench) -> None:
    profile = any_bench.processor.profile
    for number in range(6):
        any_bench.prepare32().set(rcx=number)
        got = any_bench.run("0f33")
        if not profile.has("RDPMC"):
            assert got is not None
            assert got.vector == UD
        else:
            assert (got is None) == (number < (2 if profile.name == "pentium3" else 4)), number


def test_machine_check_banks() -> None:
    """MCG_CAP's bank count is that of the MCi_CTL registers which can be read."""
    for profile in PROFILES.values():
        if "MCA" in profile.flags:
            banks = profile.constant_msrs[0x179] & 0xFF
            assert all(0x400 + 4 * i in profile.msrs for i in range(banks)), profile.name


def test_one_gigabyte_pages(handlers: HandlerStore) -> None:
    """Bit 7 of a PDPTE is reserved where there are no 1 GB pages (APM vol. 2, 5.3.4)."""
    for name, works in (("opteron-2007", True), ("opteron-2006", False)):
        bench = Bench(PROFILES[name], handlers).prepare64()
        bench.memory.write_u64(TABLES + 0x1008, 0x87)  # 40000000h: a 1 GB page at 0
        bench.memory.write_u64(0x9000, 0x1234)
        bench.set(rbx=0x4000_9000)
        got = bench.run("488b03")
        if works:
            assert got is None
            assert bench.get("rax") == 0x1234
        else:
            assert got is not None
            assert (got.vector, got.error) == (PF, 0x9)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("pentium", {12, 13, 20, 21}), ("pentium3", {17, 20, 21}), ("opteron-2006", {21}), ("opteron-2007", {21})],
)
def test_four_megabyte_pages(handlers: HandlerStore, name: str, bits: set[int]) -> None:
    """PSE-36: which bits of a 4 MB page's entry are reserved follows from the physical address bits."""
    for bit in (12, 13, 16, 17, 20, 21):
        bench = Bench(PROFILES[name], handlers).prepare32()
        p = bench.processor
        bench.memory.write_u32(TABLES, 0x87)
        bench.memory.write_u32(TABLES + 4, 0x87 | 1 << bit)
        p.state.set(layout.CR4, CR4_PSE)
        p.state.set(layout.CR3, TABLES)
        p.state.set(layout.CR0, p.cr0 | CR0_PG)
        bench.set(rbx=0x40_8000)
        got = bench.run("8b03")
        wanted = (PF, 0x9) if bit in bits or (name == "pentium" and bit in (16, 17)) else None
        assert (None if got is None else (got.vector, got.error)) == wanted, bit


@pytest.mark.parametrize(("name", "width"), [("pentium3", 36), ("opteron-2006", 40), ("opteron-2007", 48)])
def test_physical_address_bits(handlers: HandlerStore, name: str, width: int) -> None:
    """PAE: address bits that the processor lacks are reserved (APM vol. 2, 5.2.3); so is NX while EFER.NXE is 0."""
    for bit in (35, 36, 39, 40, 47, 48, 51, 63):
        bench = Bench(PROFILES[name], handlers).prepare32()
        p = bench.processor
        p.state.set(layout.PDPTE, (TABLES + 0x1000) | 1)
        bench.memory.write_u64(TABLES + 0x1000, 0x87)
        bench.memory.write_u64(TABLES + 0x1008, 0x87 | 1 << bit)
        p.state.set(layout.CR4, CR4_PAE)
        p.state.set(layout.CR0, p.cr0 | CR0_PG)
        bench.set(rbx=0x20_8000)
        got = bench.run("8b03")
        wanted = (PF, 0x9) if bit >= width else None
        assert (None if got is None else (got.vector, got.error)) == wanted, bit


def test_reset_leaves_the_signature_in_edx(any_bench: Bench) -> None:
    any_bench.processor.reset()
    assert any_bench.get("rdx") == any_bench.processor.profile.signature
