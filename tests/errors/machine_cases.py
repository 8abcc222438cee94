"""Errors of the machine, its devices and its boards."""

from __future__ import annotations

from trapgate import guests
from trapgate.boards.pc import Pc
from trapgate.cpu.faults import Unimplemented
from trapgate.devices.system_control import A20Gate
from trapgate.guests import UnknownGuest
from trapgate.machine.bus import Bus
from trapgate.machine.clock import Clock
from trapgate.machine.console import NullConsole
from trapgate.machine.control import RunControl
from trapgate.machine.errors import (
    AddressOutsideMemory,
    InvalidFrequency,
    InvalidMapping,
    InvalidMemorySize,
    MappingConflict,
    SnapshotMismatch,
    UnimplementedDevice,
    UnknownTierSetting,
)
from trapgate.machine.memory import PhysicalMemory

from .cases import World, case


class Gadget:
    """A device of ports and of memory."""

    name = "gadget"
    port_width = 4

    def read_port(self, offset: int, width: int) -> int:
        return 0

    def write_port(self, offset: int, width: int, value: int) -> None:
        pass

    def read_memory(self, offset: int, width: int) -> int:
        return 0

    def write_memory(self, offset: int, width: int, value: int) -> None:
        pass

    def reset(self) -> None:
        pass


def _ports_twice(world: World) -> None:
    bus = Bus()
    bus.map_ports(0x60, 2, Gadget())
    bus.map_ports(0x5F, 2, Gadget())


def _pages_twice(world: World) -> None:
    bus = Bus()
    bus.map_memory(0xE000_0000, 0x2000, Gadget())
    bus.map_memory(0xE000_1000, 0x1000, Gadget())


class _Pins:
    def set_intr(self, level: bool) -> None:
        pass

    def set_a20(self, enabled: bool) -> None:
        pass

    def pulse_nmi(self) -> None:
        pass

    pulse_smi = request_reset = pulse_nmi


def _apic_over_ram(world: World) -> None:
    board = Pc(PhysicalMemory(2 << 20), Clock(10**9), RunControl(), _Pins(), NullConsole())
    board.lapic.apic_base = 0x10_0900


def _reset_vector(world: World) -> None:
    machine = world.machine()
    machine.registers.cs.load(0xF000, 0xFFFF_0000, 0xFFFF, 0x9B)
    machine.registers.rip = 0xFFF0
    machine.run()


def _smi_on_intel(world: World) -> None:
    machine = world.machine(cpu="pentium3")
    machine._processor.pulse_smi()
    machine.run()


def _tier_by_environment(world: World) -> None:
    world.monkeypatch.setenv("TRAPGATE_HOT", "sometimes")
    world.machine()


case(
    UnknownTierSetting,
    "wanted auto, off or always in TRAPGATE_HOT, got 'sometimes': correct TRAPGATE_HOT",
    _tier_by_environment,
)
case(
    InvalidMapping,
    "gadget: wanted ports within 0..0xffff, got 2 ports from 0xffff: correct the mapping",
    lambda w: Bus().map_ports(0xFFFF, 2, Gadget()),
)
case(MappingConflict, "gadget: wanted port 0x60, got one that gadget has: move one of the two", _ports_twice)
case(
    InvalidMapping,
    "gadget: wanted a base and a size in whole 4096-byte pages, got 16 bytes at 0x1000: correct the mapping",
    lambda w: Bus().map_memory(0x1000, 16, Gadget()),
)
case(MappingConflict, "gadget: wanted address 0xe0001000, got one that gadget has: move one of the two", _pages_twice)
case(
    InvalidMapping,
    "bus: wanted a mapping to take back, got none at 0x1000: correct the mapping",
    lambda w: Bus().unmap_memory(0x1000),
)
case(
    InvalidMapping,
    "bus: wanted a mapping to take back, got none at port 0x60: correct the mapping",
    lambda w: Bus().unmap_ports(0x60, 2),
)
case(
    InvalidFrequency,
    "wanted a processor clock of at least 1000000 Hz, got 50: choose another frequency",
    lambda w: Clock(50),
)
case(
    SnapshotMismatch,
    "A20Gate: wanted a snapshot with enabled, got one with nothing: take the snapshot again with this version",
    lambda w: A20Gate(lambda level: None).restore({}),
)
case(
    InvalidMemorySize,
    (
        "wanted a memory size that is a multiple of 4096 bytes, from 1 MB to 64 GB, got 5000 bytes: choose "
        "another memory size"
    ),
    lambda w: PhysicalMemory(5000),
)
case(
    AddressOutsideMemory,
    (
        "wanted RAM at guest-physical 0xfffff to 0x100000, got a machine with 1 MB: give it more memory or use "
        "lower addresses"
    ),
    lambda w: PhysicalMemory(1 << 20).read(0xF_FFFF, 2),
)
case(
    UnimplementedDevice,
    (
        "unimplemented: wanted a feature of the lapic that trapgate has, got a register page at 0x100000, over "
        "RAM or another device: docs/processor.md lists what is not there yet"
    ),
    _apic_over_ram,
)
case(
    Unimplemented,
    (
        "unimplemented: wanted what trapgate has, got execution outside RAM at rip 0xfff0, guest-physical "
        "0xfffffff0: docs/processor.md lists what is not there yet"
    ),
    _reset_vector,
)
case(
    Unimplemented,
    (
        "unimplemented: wanted what trapgate has, got SMI with the save area of Intel's processors at rip 0x0, "
        "16-bit code, CPL 0: docs/processor.md lists what is not there yet"
    ),
    _smi_on_intel,
)
case(
    UnknownGuest,
    "wanted an embedded guest, got 'debian'; there are trapgate-guest, real-loop, bench, hypervisor, io: "
    "choose one of them",
    lambda w: guests.image("debian"),
)
