"""L1 as a short program that runs what a VMCB describes, three times, on the bare machine and in virtual machines.

It notes after each #VMEXIT some registers, the VMCB's exit fields and the guest's control registers, goes on at the
next RIP that the processor has saved, and ends the run. The same memory must do the same everywhere.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from engine.assembly import assemble
from trapgate.arch import vmcb
from trapgate.arch.cpuid import PROFILES
from trapgate.arch.registers import CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, EFER_SVME
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig, enter_state
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.image import EntryState, SegmentValue, TableRegister, entry_registers
from trapgate.machine.control import UserQuit
from trapgate.vmm.errors import DeviceInstruction
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

MEMORY, COMPARED = 4 << 20, 1 << 20
CODE, L1_TABLES, L1_IDT, GDT = 0x8000, 0x1_0000, 0x1_3000, 0x1_4000
VMCB, IOPM, MSRPM = 0x2_0000, 0x2_1000, 0x2_4000
L2_CODE, L2_STACK, L2_IDT, L2_HANDLER = 0x3_0000, 0x3_2000, 0x3_3000, 0x3_0800
L2_TABLES, NESTED_TABLES, DATA, LOG = 0x4_0000, 0x5_0000, 0x6_0000, 0x7_0000
ROUNDS, LOG_POINTER, COUNTER = 3, 0x7FF8, 0x7FF0
#: More than any run here needs; what still runs then never ends.
MOST_CYCLES, MOST_VIRTUAL_CYCLES = 6_000_000, 40_000_000
PWU, NX = 7, 1 << 63
CODE64, DATA0 = 8, 16
_CODE_ATTRIBUTES, _DATA_ATTRIBUTES = 0xA9B, 0xC93

L1 = assemble(64, """
    b9 80 00 00 c0  mov ecx, 0C0000080h
    0f 32  rdmsr
    0d 00 10 00 00  or eax, 1000h
    0f 30  wrmsr
    b9 17 01 01 c0  mov ecx, 0C0010117h
    b8 00 60 02 00  mov eax, 26000h
    31 d2  xor edx, edx
    0f 30  wrmsr
    round:
    0f 01 dd  clgi
    b8 00 00 02 00  mov eax, 20000h
    0f 01 da  vmload
    31 db  xor ebx, ebx
    b9 81 00 00 c0  mov ecx, 0C0000081h
    ba 80 00 00 00  mov edx, 80h
    be 00 00 06 00  mov esi, 60000h
    bf 00 10 06 00  mov edi, 61000h
    0f 01 d8  vmrun
    0f 01 db  vmsave
    8b 3c 25 f8 7f 00 00  mov edi, [7ff8h]
    48 89 1f  mov [rdi], rbx
    48 89 4f 08  mov [rdi + 8], rcx
    48 89 57 10  mov [rdi + 16], rdx
    83 c7 18  add edi, 24
    be 60 00 02 00  mov esi, 20060h
    b9 06 00 00 00  mov ecx, 6
    fc  cld
    f3 48 a5  rep movsq
    be 48 05 02 00  mov esi, 20548h
    b9 07 00 00 00  mov ecx, 7
    f3 48 a5  rep movsq
    89 3c 25 f8 7f 00 00  mov [7ff8h], edi
    0f 01 dc  stgi
    48 8b 04 25 c8 00 02 00  mov rax, [200c8h]
    48 89 04 25 78 05 02 00  mov [20578h], rax
    ff 0c 25 f0 7f 00 00  dec dword [7ff0h]
    75 86  jne round
    b0 00  mov al, 0
    e6 f4  out 0f4h, al
    handler:
    b0 01  mov al, 1
    e6 f4  out 0f4h, al
""", CODE)  # fmt: skip
L1_EFER = EFER_LME | EFER_LMA | EFER_NXE
L1_CR0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET


class Image:
    """The first megabyte of L1's memory, being written."""

    def __init__(self) -> None:
        self.bytes = bytearray(COMPARED)
        self.put(CODE, L1.data)
        self.u64(LOG_POINTER, LOG)
        self.u64(COUNTER, ROUNDS)
        self._tables(L1_TABLES)
        self.u64(GDT + CODE64, 0x00AF_9B00_0000_FFFF)
        self.u64(GDT + DATA0, 0x00CF_9300_0000_FFFF)
        self._idt(L1_IDT, L1["handler"])
        self._idt(L2_IDT, L2_HANDLER)
        self.put(L2_HANDLER, b"\x0f\x01\xd9\xf4")
        self._guest()

    def put(self, address: int, data: bytes) -> None:
        self.bytes[address : address + len(data)] = data

    def u64(self, address: int, value: int) -> None:
        struct.pack_into("<Q", self.bytes, address, value & (1 << 64) - 1)

    def read64(self, address: int) -> int:
        value: int = struct.unpack_from("<Q", self.bytes, address)[0]
        return value

    def _tables(self, root: int) -> None:
        """The first 2 MB to themselves in 4 KB pages if `root` has room for the table, and the next 2 MB at once."""
        small = root != L1_TABLES
        self.u64(root, root + 0x1000 | PWU)
        self.u64(root + 0x1000, root + 0x2000 | PWU)
        self.u64(root + 0x2000, root + 0x3000 | PWU if small else PWU | 0x80)
        self.u64(root + 0x2008, 0x20_0000 | PWU | 0x80)
        if small:
            for page in range(512):
                self.u64(root + 0x3000 + 8 * page, page << 12 | PWU)

    def _idt(self, address: int, handler: int) -> None:
        gate = handler & 0xFFFF | CODE64 << 16 | 0x8E00 << 32 | (handler >> 16 & 0xFFFF) << 48
        for vector in range(256):
            self.u64(address + 16 * vector, gate)
            self.u64(address + 16 * vector + 8, handler >> 32)

    def _guest(self) -> None:
        self._tables(L2_TABLES)
        self._tables(NESTED_TABLES)
        for offset, attributes, selector in (
            (vmcb.ES, _DATA_ATTRIBUTES, DATA0), (vmcb.CS, _CODE_ATTRIBUTES, CODE64), (vmcb.SS, _DATA_ATTRIBUTES, DATA0),
            (vmcb.DS, _DATA_ATTRIBUTES, DATA0), (vmcb.FS, _DATA_ATTRIBUTES, DATA0), (vmcb.GS, _DATA_ATTRIBUTES, DATA0),
            (vmcb.LDTR, 0x82, 0), (vmcb.TR, 0x8B, 0),
        ):  # fmt: skip
            self.u64(VMCB + offset, selector | attributes << 16 | 0xFFFF_FFFF << 32)
        for offset, base in ((vmcb.GDTR, GDT), (vmcb.IDTR, L2_IDT)):
            self.u64(VMCB + offset, 0xFFF << 32)
            self.u64(VMCB + offset + 8, base)
        misc1 = vmcb.misc1("hlt", "shutdown", "rdtsc", "cpuid", "ioio", "msr", "intr")
        for offset, value in (
            (vmcb.INTERCEPT_MISC1 & ~7, misc1 << 32), (vmcb.INTERCEPT_MISC2, vmcb.misc2("vmrun", "vmmcall")),
            (vmcb.IOPM_BASE_PA, IOPM), (vmcb.MSRPM_BASE_PA, MSRPM), (vmcb.ASID, 1), (vmcb.N_CR3, NESTED_TABLES),
            (vmcb.EFER, L1_EFER | EFER_SVME), (vmcb.CR0, L1_CR0), (vmcb.CR3, L2_TABLES), (vmcb.CR4, CR4_PAE),
            (vmcb.DR6, 0xFFFF_0FF0), (vmcb.DR7, 0x400), (vmcb.RFLAGS, 2), (vmcb.RIP, L2_CODE), (vmcb.RSP, L2_STACK),
            (vmcb.RAX, 0x1122_3344_5566_7788), (vmcb.G_PAT, 0x0007_0406_0007_0406),
        ):  # fmt: skip
            self.u64(VMCB + offset, value)


def entry_state() -> EntryState:
    """L1 in long mode."""
    code = SegmentValue(CODE64, 0, 0xFFFF_FFFF, _CODE_ATTRIBUTES)
    data = SegmentValue(DATA0, 0, 0xFFFF_FFFF, _DATA_ATTRIBUTES)
    segments = {"cs": code, **dict.fromkeys(("es", "ss", "ds", "fs", "gs"), data)}
    segments["ldtr"], segments["tr"] = SegmentValue(0, 0, 0, 0x82), SegmentValue(0, 0, 0x67, 0x8B)
    registers = entry_registers(rip=CODE, rsp=0x7000, rflags=2)
    tables = TableRegister(GDT, 0xFFF), TableRegister(L1_IDT, 0xFFF)
    return EntryState("long64", registers, segments, L1_CR0, L1_TABLES, CR4_PAE, L1_EFER, *tables)


class _Silent:
    def write(self, data: bytes) -> None:
        pass


@dataclass
class Outcome:
    """How a run has ended, and L1's memory."""

    reason: str
    memory: bytes

    def log(self) -> list[tuple[int, ...]]:
        """What L1 has noted: rbx, rcx, rdx; V_..., shadow, exit code, info 1, info 2, int info; CR4 ... RIP."""
        return [struct.unpack_from("<16Q", self.memory, LOG + 128 * i) for i in range(ROUNDS)]


def run_bare(image: Image, handlers: HandlerStore, profile: str = "opteron-2007") -> Outcome:
    """On the bare machine."""
    machine = BareMachine(MachineConfig(MEMORY, PROFILES[profile]), _Silent(), handlers)
    machine.memory.write(0, bytes(image.bytes))
    enter_state(machine.processor, entry_state())
    machine.clock.schedule(MOST_CYCLES, lambda: machine.control.stop(UserQuit()))
    reason = machine.run().reason
    if reason == "request":
        reason = "endless" if machine.control.request == UserQuit() else str(machine.control.request)
    return Outcome(reason, machine.memory.read(0, COMPARED))


def make_virtual(technique: str, handlers: HandlerStore, profile: str = "opteron-2007") -> VirtualMachine:
    """An empty virtual machine."""
    host = HostMachine(PROFILES[profile], 16 << 20, handlers)
    return VirtualMachine(host, MEMORY, PROFILES[profile], TECHNIQUES[technique], _Silent())


def run_virtual(image: Image, vm: VirtualMachine) -> Outcome:
    """In a virtual machine that has run nothing yet."""
    backend = vm.backend
    assert isinstance(backend, HostMachine)
    vm.memory.write(0, bytes(image.bytes))
    vm.enter_state(entry_state())

    def out_of_time() -> None:
        vm.control.stop(UserQuit())
        backend.control.stop(UserQuit())

    backend.clock.schedule(MOST_VIRTUAL_CYCLES, out_of_time)
    try:
        reason = vm.run()
    except DeviceInstruction:
        reason = "device"
    if reason == "request":
        reason = "endless" if backend.control.request else str(vm.control.request)
    return Outcome(reason, vm.memory.read(0, COMPARED))


def random_instructions(rng: random.Random, count: int = 8) -> bytes:
    """Code for L2: what is intercepted or not, accesses to memory, jumps among them."""
    return b"".join(bytes.fromhex(rng.choice(_INSTRUCTIONS)) for _ in range(count)) + b"\xf4" * 4


_INSTRUCTIONS = (
    "0f01d9",  # vmmcall
    "f4", "90", "fb", "fa", "9c", "9d", "cc", "0f0b", "f390",  # hlt nop sti cli pushf popf int3 ud2 pause
    "cd21", "48cf", "0f06", "0f09", "0f08",  # int 21h, iretq, clts, wbinvd, invd
    "0f20c0", "0f22c0", "0f20d8", "0f22d8", "0f20e0", "0f22e0", "440f20c0", "440f22c0",  # CR0, CR3, CR4, CR8
    "0f21f8", "0f23f8", "0f21c0", "0f23c0",  # DR7, DR0
    "0f32", "0f30", "0f31",  # rdmsr, wrmsr, rdtsc
    "e480", "e680", "ec", "ee",  # in, out 80h; in, out dx
    "488906", "488b06", "f3a4", "488987ff0f0000", "f00fc106",  # accesses to [rsi], [rdi]
    "0f0106", "0f0116", "0f010e", "0f01e0", "8ec0", "8ed8", "8ee2", "0f00d8",  # tables, SMSW, segments
    "0f013e", "0f01df", "0f01d8", "0f01da", "0f01db", "0f01dc", "0f01dd",  # INVLPG, AMD-V's own
    "31d2", "31c0", "b801000000", "b91b000000", "b980000000c0", "be00100600", "48be0000f00000000000", "bf00001000",
    "b9170101c0", "eb00", "48c7c000000200", "0f33",
)  # fmt: skip
