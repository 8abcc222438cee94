"""Errors of the hypervisor itself: too small a host, processors that lack something, and its own mistakes."""

from __future__ import annotations

from collections.abc import Callable

from trapgate.arch import vmcb
from trapgate.arch.cpuid import PROFILES
from trapgate.boards.host import HostMachine
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.raw import RawImage
from trapgate.machine.console import NullConsole
from trapgate.machine.errors import UnimplementedDevice
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm.errors import DeviceInstruction, EntryRefused, NoSuchTechnique, UnexpectedExit
from trapgate.vmm.exits.memory import emulate_device
from trapgate.vmm.memory.errors import FrameNotOwned, OutOfHostMemory, OutsideGuestMemory
from trapgate.vmm.memory.frames import FrameAllocator
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.memory.nested import NestedTables
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

from .cases import World, case

MB = 1 << 20
_REPORT = "please report it: a guest cannot cause it"


def _frames() -> FrameAllocator:
    return FrameAllocator(PhysicalMemory(8 * MB))


def _machine(code: str = "f4", technique: str = "nested") -> VirtualMachine:
    """A virtual machine that is about to run a boot sector with this code."""
    host = HostMachine(PROFILES["opteron-2007"], 16 * MB, HandlerStore())
    machine = VirtualMachine(host, 2 * MB, host.profile, TECHNIQUES[technique], NullConsole())
    machine.load(RawImage(bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa"))
    return machine


def _refused(world: World) -> None:
    machine = _machine()
    machine.vcpu.block[vmcb.EFER] = 0
    machine.run()


def _unexpected(world: World) -> None:
    machine = _machine("0f 31 f4")  # rdtsc
    machine.vcpu.block.intercept("rdtsc")
    machine.run()


def _device_instruction(world: World) -> None:
    machine = _machine("0f a2")  # cpuid
    emulate_device(machine.vcpu, 0xFEC0_0000)


def _smi_of_intel(world: World) -> None:
    host = HostMachine(PROFILES["opteron-2007"], 16 * MB, HandlerStore())
    machine = VirtualMachine(host, 2 * MB, PROFILES["pentium3"], TECHNIQUES["software"], NullConsole())
    machine.load(RawImage(b"\xf4".ljust(510, b"\0") + b"\x55\xaa"))
    machine.vcpu.pulse_smi()
    machine.run()


def _unused(name: str, *arguments: int) -> Callable[[World], object]:
    """A method that only other techniques' exits call."""
    return lambda world: getattr(_machine().technique, name)(*arguments)


case(
    OutOfHostMemory,
    "guest: wanted a frame of host memory, got none (0 frames of 4 KB are free): "
    "give the host more memory or the guests less",
    lambda world: [frames.allocate("guest") for frames in [_frames()] for _ in range(2048)],
)
case(
    OutOfHostMemory,
    "guest: wanted 4096 frames in a row at a multiple of 0x1000000 of host memory, got none (2047 frames of 4 KB are "
    "free): give the host more memory or the guests less",
    lambda world: _frames().allocate_run("guest", 4096),
)
case(
    FrameNotOwned,
    "host frame 0x1000: wanted one of guest to free, got one of nobody: free what was allocated, once",
    lambda world: _frames().free("guest", 0x1000),
)
case(
    OutsideGuestMemory,
    "wanted a page of guest RAM, got guest-physical 0x80000000: map only pages of the guest's memory",
    lambda world: NestedTables(GuestMemory(_frames(), 2 * MB)).unmap(0x8000_0000),
)
case(
    NoSuchTechnique,
    "technique nested: wanted a processor with nested paging, got opteron-2006: choose another with --cpu",
    lambda world: world.cli("run", "--technique", "nested", "--cpu", "opteron-2006"),
)
case(
    EntryRefused,
    f"VMRUN: wanted a consistent VMCB, got one refused because EFER.SVME is clear: {_REPORT}",
    _refused,
)
case(
    UnexpectedExit,
    f"VMEXIT: wanted one that has a function, got rdtsc at rip 0x7c00: {_REPORT}",
    _unexpected,
)
for _name, _method, _arguments in (
    ("cr0_write", "write_cr0", (0, 0)),
    ("cr3_write", "write_cr3", (0,)),
    ("cr4_write", "write_cr4", (0,)),
    ("invlpg", "invlpg", (0,)),
):
    case(
        UnexpectedExit,
        f"VMEXIT: wanted one that has a function, got {_name} at rip 0x7c00: {_REPORT}",
        _unused(_method, *_arguments),
    )
case(
    DeviceInstruction,
    "memory-mapped device: wanted an access by an instruction that the emulator knows, got `cpuid` at rip 0x7c00, "
    "guest-physical 0xfec00000: run the guest on the bare machine",
    _device_instruction,
)
case(
    UnimplementedDevice,
    (
        "unimplemented: wanted a feature of the lapic that trapgate has, got an SMI, with the save area of Intel's "
        "processors: docs/processor.md lists what is not there yet"
    ),
    _smi_of_intel,
)
