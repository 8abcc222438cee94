"""The emulator's own promises: one access for one operand, bounded turns, nothing changed by what fails."""

from __future__ import annotations

import copy

import pytest

from trapgate.arch.registers import (
    AC,
    CR0_AM,
    CR0_EM,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR4_OSFXSR,
    CS,
    DF,
    DS,
    EFER_LMA,
    EFER_LME,
    RAX,
    RCX,
    RDI,
    RF,
    RSI,
    SS,
    VM,
)  # fmt: skip
from trapgate.arch.segments import ATTRIBUTE_DB, CODE_ACCESSED, DATA_RW_ACCESSED
from trapgate.vmm.emulate import GuestFault, NotEmulated, emulate, emulator
from trapgate.vmm.emulate.strings import MOST_TURNS
from vmm.emulator_side import Guest, Pages, flat_segments

CODE, DATA, DEVICE = 0x10_0000, 0x20_0000, 0xFEE0_0000
PAGE = 4096


def kernel64(code: str, **registers: int) -> tuple[Guest, Pages]:
    """64-bit code at CPL 0, two pages of data and one of a device."""
    guest = Guest(segments=flat_segments("long64"), rip=CODE, efer=EFER_LMA | EFER_LME, cr0=CR0_PE | CR0_PG)
    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
    for name, value in registers.items():
        guest.gpr[names.index(name)] = value
    return guest, _memory(code)


def protected32(code: str) -> tuple[Guest, Pages]:
    """32-bit code at CPL 0 with flat segments."""
    return Guest(segments=flat_segments("protected32"), rip=CODE), _memory(code, 0xFFFF_FFFF)


def _memory(code: str, mask: int = (1 << 64) - 1) -> Pages:
    pages = Pages(mask)
    pages.map(CODE, bytes.fromhex(code).ljust(PAGE, b"\x90"))
    pages.map(DATA, bytes(2 * PAGE))
    pages.map(DEVICE, bytes(PAGE))
    return pages


@pytest.mark.parametrize(
    ("code", "what", "log"),
    [
        # What Debian's kernel does to local APIC, I/O APIC and page tables.
        ("c780b000000000000000", "mov dword [rax+0xb0], 0", [("write", DEVICE + 0xB0, 4)]),
        ("8b4020", "mov eax, [rax+0x20]", [("read", DEVICE + 0x20, 4)]),
        ("8908", "mov [rax], ecx", [("write", DEVICE, 4)]),
        ("488908", "mov [rax], rcx", [("write", DEVICE, 8)]),
        ("480fc308", "movnti [rax], rcx", [("write", DEVICE, 8)]),
        ("488708", "xchg [rax], rcx", [("update", DEVICE, 8), ("write", DEVICE, 8)]),
        ("f0480fb108", "lock cmpxchg [rax], rcx", [("update", DEVICE, 8), ("write", DEVICE, 8)]),
        ("f0480fba3006", "lock btr qword [rax], 6", [("update", DEVICE, 8), ("write", DEVICE, 8)]),
        ("f0480fba2805", "lock bts qword [rax], 5", [("update", DEVICE, 8), ("write", DEVICE, 8)]),
        ("f0802001", "lock and byte [rax], 1", [("update", DEVICE, 1), ("write", DEVICE, 1)]),
        ("48810801000000", "or qword [rax], 1", [("update", DEVICE, 8), ("write", DEVICE, 8)]),
        ("a21000e0fe00000000", "mov [0xfee00010], al", [("write", DEVICE + 16, 1)]),
        ("f70001000000", "test dword [rax], 1", [("read", DEVICE, 4)]),
        ("0fb708", "movzx ecx, word [rax]", [("read", DEVICE, 2)]),
        ("0f1100", "movups [rax], xmm0", [("write", DEVICE, 16)]),
        ("660f7e00", "movd [rax], xmm0", [("write", DEVICE, 4)]),
        ("0f1800", "prefetchnta [rax]", []),
        ("0fae38", "clflush [rax]", [("check", DEVICE, 1)]),
        ("0f4408", "cmove ecx, [rax]", [("read", DEVICE, 4)]),
    ],
)
def test_each_operand_is_accessed_once_and_in_its_size(code: str, what: str, log: list[tuple[str, int, int]]) -> None:
    guest, memory = kernel64(code, rax=DEVICE)
    done = emulate(guest, memory)
    assert (done.length, done.finished) == (len(bytes.fromhex(code)), True)
    assert guest.rip == CODE + done.length
    assert memory.log == log


def test_a_repeated_string_stops_after_so_many_turns_and_goes_on() -> None:
    guest, memory = kernel64("f348ab", rax=0x0102030405060708, rcx=700, rdi=DATA)  # rep stosq
    assert not emulate(guest, memory).finished
    assert (guest.rip, guest.gpr[RCX], guest.gpr[RDI]) == (CODE, 700 - MOST_TURNS, DATA + 8 * MOST_TURNS)
    guest.rflags |= RF
    assert emulate(guest, memory).finished
    assert (guest.rip, guest.gpr[RCX], guest.gpr[RDI]) == (CODE + 3, 0, DATA + 8 * 700)
    assert memory.peek(DATA, 8 * 701) == bytes.fromhex("0807060504030201") * 700 + bytes(8)
    assert not guest.rflags & RF


def test_rf_stays_while_turns_remain() -> None:
    guest, memory = kernel64("f3aa", rcx=MOST_TURNS + 1, rdi=DATA)
    guest.rflags |= RF
    emulate(guest, memory)
    assert guest.rflags & RF


def test_a_count_of_exactly_so_many_turns_is_finished() -> None:
    guest, memory = kernel64("f3aa", rcx=MOST_TURNS, rdi=DATA)
    assert emulate(guest, memory).finished


def test_a_fault_in_a_later_turn_leaves_the_turns_before_it() -> None:
    guest, memory = kernel64("f348a5", rcx=5, rsi=DATA, rdi=DATA + 2 * PAGE - 24)  # rep movsq
    memory.poke(DATA, bytes(range(24)))
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error, raised.value.address) == (14, 2, DATA + 2 * PAGE)
    assert (guest.rip, guest.gpr[RCX], guest.gpr[RSI], guest.gpr[RDI]) == (CODE, 2, DATA + 24, DATA + 2 * PAGE)
    assert memory.peek(DATA + 2 * PAGE - 24, 24) == bytes(range(24))


def test_strings_downwards_wrap_in_a_16_bit_address_size() -> None:
    guest, memory = protected32("67f3aa")  # rep stosb, es:di
    memory.map(0, bytes(1 << 16))
    guest.gpr[RAX], guest.gpr[RCX], guest.gpr[RDI] = 0x55, 0xABCD_0003, 0x1234_0001
    guest.rflags |= DF
    assert emulate(guest, memory).finished
    assert (guest.gpr[RCX], guest.gpr[RDI]) == (0xABCD_0000, 0x1234_FFFE)
    assert (memory.peek(0, 2), memory.peek(0xFFFF, 1)) == (b"\x55\x55", b"\x55")


def test_bits_beyond_the_operand() -> None:
    guest, memory = kernel64("f0480fab08", rax=DATA + PAGE, rcx=(1 << 64) - 65)  # lock bts [rax], rcx
    emulate(guest, memory)
    assert memory.peek(DATA + PAGE - 16, 8) == (1 << 63).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("code", "vector", "error"),
    [
        ("8700", 14, 2),  # xchg [rax], eax: a write to a page that is missing, not a read
        ("8b00", 14, 0),
        ("ff30", 14, 0),  # push [rax]
        ("f30f6f00", 14, 0),  # movdqu xmm0, [rax]
        ("0fae38", 14, 0),  # clflush [rax]
        ("660f6f4001", 13, 0),  # movdqa xmm0, [rax+1]
    ],
)
def test_a_fault_changes_nothing(code: str, vector: int, error: int) -> None:
    guest, memory = kernel64(code, rax=0x5000_0000, rsp=DATA + 64)
    guest.rflags |= RF
    before = copy.deepcopy(guest)
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error) == (vector, error)
    assert guest == before
    assert memory.log == []


def test_what_a_fault_says() -> None:
    assert str(GuestFault(14, 2, 0x1000)) == "exception 14 for the guest, error code 0x2, linear address 0x1000"
    assert str(GuestFault(6)) == "exception 6 for the guest"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("0fae00", "fxsave [rax]"),
        ("d9051000e0fe", "fld st,dword ptr [0FFFFFFFFFEF00016h]"),
        ("0f6f00", "movq mm0,[rax]"),
        ("8ed8", "mov ds,ax"),
        ("ff18", "call far fword ptr [rax]"),
        ("0f22d8", "mov cr3,rax"),
        ("f08b00", "(bad)"),
        ("0f0b", "ud2"),
    ],
)
def test_what_is_not_known_is_said(code: str, text: str) -> None:
    guest, memory = kernel64(code, rax=DATA)
    before = copy.deepcopy(guest)
    with pytest.raises(NotEmulated) as raised:
        emulate(guest, memory)
    assert str(raised.value) == (
        f"instruction emulation: wanted one that trapgate.vmm.emulate knows, got `{text}` at linear 0x100000: "
        "let the guest run it itself, or teach it to the emulator"
    )
    assert (raised.value.instruction, raised.value.address) == (text, CODE)
    assert guest == before


def test_an_instruction_across_two_pages_is_fetched_in_two_parts() -> None:
    guest, memory = kernel64("", rax=DEVICE)
    code = bytes.fromhex("c780b000000078563412")
    memory.map(CODE + PAGE, bytes(PAGE))
    guest.rip = CODE + PAGE - 3
    memory.poke(guest.rip, code)
    assert emulate(guest, memory).length == 10
    assert memory.peek(DEVICE + 0xB0, 4) == bytes.fromhex("78563412")


def test_a_missing_second_page_of_code_faults() -> None:
    guest, memory = kernel64("", rax=DEVICE)
    guest.rip = CODE + PAGE - 3
    memory.poke(guest.rip, bytes.fromhex("c780b0"))
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.address) == (14, CODE + PAGE)


def test_code_beyond_the_limit_of_cs() -> None:
    guest, memory = protected32("8b00")
    guest.gpr[RAX] = DATA
    guest.segments[CS] = (8, 0, CODE, guest.segments[CS][3])
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error) == (13, 0)
    guest.segments[CS] = (8, 0, CODE + 1, guest.segments[CS][3])
    emulate(guest, memory)
    assert guest.rip == CODE + 2


def test_the_same_bytes_mean_something_else_in_another_mode() -> None:
    code = "8b00"  # mov eax, [rax]; mov eax, [eax]; mov ax, [bx+si]
    for bits, attributes in ((32, ATTRIBUTE_DB), (16, 0)):
        guest, memory = protected32(code)
        memory.map(0, bytes(range(256)) * 16)
        guest.segments[CS] = (8, 0, 0xFFFF_FFFF, CODE_ACCESSED | attributes)
        guest.gpr[RAX], guest.gpr[RSI] = 0x40, 0x80
        emulate(guest, memory)
        assert guest.gpr[RAX] == {32: 0x43424140, 16: 0x8180}[bits]
    guest, memory = kernel64(code, rax=0x40)
    memory.map(0, bytes(range(256)) * 16)
    emulate(guest, memory)
    assert guest.gpr[RAX] == 0x43424140


def test_linear_addresses_wrap_at_4_gb() -> None:
    guest, memory = protected32("8b00")
    memory.map(0, bytes(range(256)) * 16)
    memory.map(0xFFFF_F000, b"\xee" * PAGE)
    guest.gpr[RAX] = 0x2000
    guest.segments[DS] = (16, 0xFFFF_DFFE, 0xFFFF_FFFF, DATA_RW_ACCESSED | ATTRIBUTE_DB)
    emulate(guest, memory)
    assert guest.gpr[RAX] == 0x0100EEEE


@pytest.mark.parametrize("kind", ["real", "virtual-8086", "protected"])
def test_code_is_written_through_cs_where_segments_have_no_rights(kind: str) -> None:
    guest, memory = protected32("2ea30004")  # mov cs:[0x400], ax
    memory.map(0, bytes(1 << 16))
    guest.segments = [(0, 0, 0xFFFF, CODE_ACCESSED if n == CS else DATA_RW_ACCESSED) for n in range(6)]
    guest.rip, guest.gpr[RAX] = 0x100, 0x1234
    memory.poke(0x100, bytes.fromhex("2ea30004"))
    guest.cr0 = 0 if kind == "real" else CR0_PE
    guest.rflags |= VM if kind == "virtual-8086" else 0
    if kind == "protected":
        with pytest.raises(GuestFault) as raised:
            emulate(guest, memory)
        assert (raised.value.vector, raised.value.error) == (13, 0)
    else:
        emulate(guest, memory)
        assert memory.peek(0x400, 2) == b"\x34\x12"


@pytest.mark.parametrize(
    ("cr0", "cr4", "vector"), [(CR0_EM, CR4_OSFXSR, 6), (CR0_TS, CR4_OSFXSR, 7), (0, 0, 6), (CR0_EM | CR0_TS, 0, 6)]
)
def test_sse_where_it_is_switched_off(cr0: int, cr4: int, vector: int) -> None:
    guest, memory = kernel64("0f1000", rax=DATA)
    guest.cr0 |= cr0
    guest.cr4 = cr4
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error) == (vector, None)
    assert memory.log == []


def test_alignment_checks() -> None:
    guest, memory = kernel64("8b00", rax=DATA + 2)
    guest.cpl, guest.rflags = 3, guest.rflags | AC
    emulate(guest, memory)  # without CR0.AM
    guest.rip, guest.gpr[RAX], guest.cr0 = CODE, DATA + 2, guest.cr0 | CR0_AM
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error) == (17, 0)
    guest.cpl = 0
    emulate(guest, memory)
    guest.cpl, guest.rip, guest.gpr[RAX] = 3, CODE, 0x5000_0002  # a page fault goes first
    with pytest.raises(GuestFault) as raised:
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error) == (14, 4)


def test_a_16_bit_stack_keeps_the_upper_half_of_esp() -> None:
    guest, memory = protected32("ff30")  # push [eax]
    memory.map(0, bytes(1 << 16))
    guest.segments[SS] = (16, 0, 0xFFFF, DATA_RW_ACCESSED)
    guest.gpr[RAX], guest.gpr[4] = DATA, 0x7777_0002
    with pytest.raises(GuestFault) as raised:  # the 4 bytes at FFFEh reach beyond the limit
        emulate(guest, memory)
    assert (raised.value.vector, raised.value.error) == (12, 0)
    guest.gpr[4] = 0x7777_0000
    emulate(guest, memory)
    assert guest.gpr[4] == 0x7777_FFFC


def test_old_instructions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "_MOST_REMEMBERED", 10)
    monkeypatch.setattr(emulator, "_remembered", {})
    for value in range(50):
        guest, memory = kernel64(f"c700{value:02x}000000", rax=DATA)
        emulate(guest, memory)
        assert memory.peek(DATA, 1)[0] == value
        assert len(emulator._remembered) <= 10
