"""Short guests whose instructions exit: the same memory and end on the bare machine and under each technique."""

from __future__ import annotations

import struct

import pytest

from engine.assembly import assemble
from trapgate.arch.cpuid import PROFILES
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig, enter_state
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.image import EntryState, SegmentValue, TableRegister, entry_registers
from trapgate.machine.control import GuestExit
from trapgate.vmm.techniques import TECHNIQUES

from .nested_svm.world import CODE, COMPARED, DATA, GDT, L1_IDT, MEMORY, Image, entry_state, make_virtual

STUBS = 0x9000
USER64, USER_DATA = 0x33, 0x3B
VIRTUAL = ("nested-tagged", "shadow-tagged", "software")


def long_mode(text: str, handlers: dict[int, str] | None = None) -> Image:
    """64-bit code at CPL 0. An exception ends the run with its vector, but for those with handlers of their own."""
    image = Image()
    image.put(CODE, assemble(64, text, CODE).data + b"\xb0\xff\xe6\xf4")
    for vector in range(32):
        place = STUBS + 64 * vector
        stub = bytes((0xB0, vector, 0xE6, 0xF4))
        if handlers and vector in handlers:
            stub = assemble(64, handlers[vector], place).data
        image.put(place, stub)
        image.u64(L1_IDT + 16 * vector, place & 0xFFFF | 8 << 16 | 0x8E00 << 32)
        image.u64(L1_IDT + 16 * vector + 8, 0)
    image.u64(GDT + USER64 - 3, 0x00AF_FB00_0000_FFFF)
    image.u64(GDT + USER_DATA - 3, 0x00CF_F300_0000_FFFF)
    image.u64(4, 0x7000)  # the TSS, at 0: stack of CPL 0
    return image


def run(image: Image, technique: str, handlers: HandlerStore, entry: EntryState | None = None) -> tuple[int, bytes]:
    """The value that the guest has written to port F4h, and the first megabyte."""
    entry = entry or entry_state()
    if technique == "bare":
        machine = BareMachine(MachineConfig(MEMORY, PROFILES["opteron-2007"]), _Silent(), handlers)
        machine.memory.write(0, bytes(image.bytes))
        enter_state(machine.processor, entry)
        machine.run(100_000)
        request, memory = machine.control.request, machine.memory.read(0, COMPARED)
    else:
        vm = make_virtual(technique, handlers)
        assert isinstance(vm.backend, HostMachine)
        vm.memory.write(0, bytes(image.bytes))
        vm.enter_state(entry)
        vm.backend.max_instructions = 100_000
        vm.run()
        request, memory = vm.control.request, vm.memory.read(0, COMPARED)
    assert isinstance(request, GuestExit), request
    return request.status >> 1, memory


class _Silent:
    def write(self, data: bytes) -> None:
        pass


def check_same(
    image: Image, handlers: HandlerStore, technique: str, entry: EntryState | None = None
) -> tuple[int, bytes]:
    """Run under a technique, and compare with the bare machine."""
    bare, here = run(image, "bare", handlers, entry), run(image, technique, handlers, entry)
    assert here[0] == bare[0]
    different = [hex(i) for i in range(0, COMPARED, 8) if bare[1][i : i + 8] != here[1][i : i + 8]]
    assert not different
    return here


def words(memory: bytes, count: int) -> list[int]:
    return list(struct.unpack_from(f"<{count}Q", memory, DATA))


STEPPED = """
    41 b8 00 00 06 00  mov r8d, 60000h
    68 02 01 00 00  push 102h
    9d  popfq
    31 c0  xor eax, eax
    0f a2  cpuid
    b9 1b 00 00 00  mov ecx, 1bh
    0f 32  rdmsr
    e4 80  in al, 80h
    e6 80  out 80h, al
    0f 09  wbinvd
    0f 20 c0  mov rax, cr0
    0f 22 c0  mov cr0, rax
    0f 20 d8  mov rax, cr3
    0f 22 d8  mov cr3, rax
    44 0f 20 c0  mov rax, cr8
    0f 01 38  invlpg [rax]
    6a 02  push 2
    9d  popfq
    90  nop
"""
LOGS = """
    50  push rax
    48 8b 44 24 08  mov rax, [rsp + 8]
    49 89 00  mov [r8], rax
    0f 21 f0  mov rax, dr6
    49 89 40 08  mov [r8 + 8], rax
    41 83 c0 10  add r8d, 16
    58  pop rax
    48 cf  iretq
"""


@pytest.mark.parametrize("technique", VIRTUAL)
def test_single_steps_over_what_exits(handlers: HandlerStore, technique: str) -> None:
    """The trap comes right behind an instruction that the hypervisor has carried out (APM vol. 2, 13.1.4.1)."""
    status, memory = check_same(long_mode(STEPPED, {1: LOGS}), handlers, technique)
    assert status == 0xFF
    assert words(memory, 34)[1::2] == [0xFFFF_4FF0] * 15 + [0, 0]


RECORDED = """
    b9 d9 01 00 00  mov ecx, 1d9h
    31 d2  xor edx, edx
    b8 01 00 00 00  mov eax, 1
    0f 30  wrmsr
    eb 00  jmp short 8010h
    31 c0  xor eax, eax
    0f a2  cpuid
    b9 db 01 00 00  mov ecx, 1dbh
    0f 32  rdmsr
    89 04 25 00 00 06 00  mov [60000h], eax
    b9 dc 01 00 00  mov ecx, 1dch
    0f 32  rdmsr
    89 04 25 08 00 06 00  mov [60008h], eax
    b9 d9 01 00 00  mov ecx, 1d9h
    0f 32  rdmsr
    89 04 25 10 00 06 00  mov [60010h], eax
"""


@pytest.mark.parametrize("technique", VIRTUAL)
def test_branches_are_recorded(handlers: HandlerStore, technique: str) -> None:
    """DebugCtl.LBR of a guest: LBR virtualization (15.23.1)."""
    status, memory = check_same(long_mode(RECORDED), handlers, technique)
    assert (status, words(memory, 3)) == (0xFF, [0x800E, 0x8010, 1])


@pytest.mark.parametrize("technique", VIRTUAL)
@pytest.mark.parametrize(("number", "value", "faults"), [
    (0x2FF, 2, True), (0x2FF, 6, False), (0x200, 7, True), (0x250, 0x0606_0606_0606_0602, True), (0x401, 1, True),
    (0x401, 0, False), (0x277, 2, True), (0x277, 0x0007_0406_0007_0406, False), (0x1B, 1, True),
    (0xC000_0080, 1 << 20, True), (0xC000_0080, 0x1, True), (0xFE, 0, True), (0x1234, 0, True),
])  # fmt: skip
def test_values_that_msrs_do_not_take(
    handlers: HandlerStore, technique: str, number: int, value: int, faults: bool
) -> None:
    """#GP for reserved values, as on the bare machine (7.7.1, 7.8.2, 9.3.2.1, 16.3.1, 3.1.7)."""
    low, high = struct.pack("<I", value & 0xFFFF_FFFF), struct.pack("<I", value >> 32)
    text = f"b9 {struct.pack('<I', number).hex(' ')}  db\nb8 {low.hex(' ')}  db\nba {high.hex(' ')}  db\n0f 30  wrmsr"
    status, _ = check_same(long_mode(text), handlers, technique)
    assert status == (13 if faults else 0xFF)


TO_USER = """
    6a 3b  push 3bh
    68 00 68 00 00  push 6800h
    6a 02  push 2
    6a 33  push 33h
    68 12 80 00 00  push 8012h
    48 cf  iretq
"""


@pytest.mark.parametrize("technique", VIRTUAL)
@pytest.mark.parametrize("code", ["0f 01 d8  vmrun", "0f 01 dd  clgi", "0f 01 df  invlpga", "f4  hlt"])
def test_amd_vs_instructions_in_user_code_are_undefined(handlers: HandlerStore, technique: str, code: str) -> None:
    """EFER.SVME is clear in the guest: #UD goes before the #GP for the CPL (APM vol. 3, VMRUN)."""
    status, _ = check_same(long_mode(TO_USER + code), handlers, technique)
    assert status == (13 if "hlt" in code else 6)


# -- SMM (10.3)

#: To the local APIC: an SMI to itself. Then a mark of having come back.
SMI = """
    b8 00 03 e0 fe  mov eax, 0fee00300h
    bb 78 56 34 12  mov ebx, 12345678h
    c7 00 00 42 00 00  mov dword [rax], 4200h
    eb 00  jmp short 8012h
    89 1c 25 08 00 06 00  mov [60008h], ebx
"""
#: Counts, destroys a register that RSM brings back, and moves SMBASE.
SMI_HANDLER = """
    66 67 ff 05 00 00 06 00  inc dword [60000h]
    66 31 db  xor ebx, ebx
    66 67 c7 05 00 ff 03 00 00 00 04 00  mov dword [3ff00h], 40000h
    0f aa  rsm
"""


@pytest.mark.parametrize("technique", VIRTUAL)
def test_smis_are_taken_and_left(handlers: HandlerStore, technique: str) -> None:
    """The state is saved and restored, and the next SMI goes to the SMBASE that the first one's handler has left."""
    image = long_mode(SMI + SMI.replace("08 00 06 00", "10 00 06 00").replace("60008h", "60010h"))
    image.u64(0x1_1000 + 24, 0xC000_0000 | 0x83)  # 1 GB with the local APIC
    image.put(0x3_8000, assemble(16, SMI_HANDLER, 0x3_8000).data)
    image.put(0x4_8000, assemble(16, "66 67 81 05 00 00 06 00 00 01 00 00  add dword [60000h], 100h\n0f aa  rsm").data)
    # On the bare machine it is taken at the end of a block (docs/engine.md), so the saved rip is another.
    for name in ("bare", technique):
        status, memory = run(image, name, handlers)
        assert (status, words(memory, 3)) == (0xFF, [0x101, 0x1234_5678, 0x1234_5678])


@pytest.mark.parametrize("technique", VIRTUAL)
def test_rsm_is_undefined_outside_smm(handlers: HandlerStore, technique: str) -> None:
    assert check_same(long_mode("0f aa  rsm"), handlers, technique)[0] == 6


# -- a task switch with an address space of its own (12.3, 15.14.1)

TASK, NEW_TASK, DIRECTORY, OTHER, TSS_A, TSS_B = 0xA000, 0xA800, 0x1_0000, 0x1_1000, 0xB000, 0xB080
SWITCH = """
    a1 00 80 40 00  mov eax, [408000h]
    a3 00 00 06 00  mov [60000h], eax
    ea 00 00 00 00 20 00  jmp 20h:0
"""
SWITCHED = """
    0f 20 d8  mov eax, cr3
    a3 08 00 06 00  mov [60008h], eax
    a1 00 80 40 00  mov eax, [408000h]
"""


@pytest.mark.parametrize("technique", VIRTUAL)
def test_a_task_switch_loads_the_guests_cr3(handlers: HandlerStore, technique: str) -> None:
    """Which is not the processor's: the new task's tables lack what the old one's have."""
    image = Image()
    image.bytes[:] = bytes(len(image.bytes))
    image.put(TASK, assemble(32, SWITCH, TASK).data)
    image.put(NEW_TASK, assemble(32, SWITCHED, NEW_TASK).data + b"\xb0\xff\xe6\xf4")
    for vector in range(32):
        image.put(STUBS + 64 * vector, bytes((0xB0, vector, 0xE6, 0xF4)))
        image.u64(L1_IDT + 8 * vector, STUBS + 64 * vector | 8 << 16 | 0x8E00 << 32)
    for selector, value in (
        (8, 0x00CF_9B00_0000_FFFF), (16, 0x00CF_9300_0000_FFFF), (0x18, 0x0000_8B00_0000_0067 | TSS_A << 16),
        (0x20, 0x0000_8900_0000_0067 | TSS_B << 16),
    ):  # fmt: skip
        image.u64(GDT + selector, value)
    image.u64(DIRECTORY, 0x83 | 0x83 << 32)  # 4 MB pages: the first 4 MB twice
    image.u64(OTHER, 0x83)
    fields = {0x1C: OTHER, 0x20: NEW_TASK, 0x24: 2, 0x38: 0x7000, 0x48: 16, 0x4C: 8, 0x50: 16, 0x54: 16, 0x66: 0x67}
    for offset, field in fields.items():
        struct.pack_into("<I", image.bytes, TSS_B + offset, field)
    data, code = SegmentValue(16, 0, 0xFFFF_FFFF, 0xC93), SegmentValue(8, 0, 0xFFFF_FFFF, 0xC9B)
    segments = {"cs": code, **dict.fromkeys(("es", "ss", "ds", "fs", "gs"), data)}
    segments |= {"ldtr": SegmentValue(0, 0, 0, 0x82), "tr": SegmentValue(0x18, TSS_A, 0x67, 0x8B)}
    entry = EntryState(
        "protected32", entry_registers(rip=TASK, rsp=0x7000, rflags=2), segments, 0x8000_0011, DIRECTORY, 0x10, 0,
        TableRegister(GDT, 0xFFF), TableRegister(L1_IDT, 0xFFF),
    )  # fmt: skip
    status, memory = check_same(image, handlers, technique, entry)
    assert status == 14
    assert words(memory, 2) == [0, OTHER]


def test_every_technique_that_differs_is_here() -> None:
    assert {name.removesuffix("-tagged") for name in VIRTUAL} == {name.removesuffix("-tagged") for name in TECHNIQUES}
