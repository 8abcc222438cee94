"""The disk and the card behind hypercalls, and the hypercalls themselves, called as a guest would."""

from __future__ import annotations

import os
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.arch import vmcb
from trapgate.arch.registers import RAX, RBX, RCX, RDX
from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import DiskConfig, NicConfig
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory
from trapgate.vmm import hypercalls

from .nic_world import MAC, OTHER, Cable, frame
from .support import HZ, Pins, advance

SECTORS = 64
REQUEST, DATA = 0x1000, 0x2000
TEXT, DISK, SUBMIT, CARD, SEND, TAKE, EVENTS = range(2, 9)


class Machine:
    """A board with both, and a virtual processor that has just left at VMMCALL."""

    def __init__(self) -> None:
        self.clock = Clock(HZ)
        self.cable = Cable(self.clock)
        self.medium = MemoryMedium(bytes(n // 512 & 0xFF for n in range(SECTORS * 512)))
        self.console = MemoryConsole()
        self.memory = PhysicalMemory(1 << 20)
        config = PcConfig(
            disks=(DiskConfig(self.medium, "hypercall"),), nics=(NicConfig("hypercall", MAC, self.cable),)
        )
        self.pc = Pc(self.memory, self.clock, RunControl(), Pins(), self.console, config)
        assert self.pc.hypercall is not None
        self.group = self.pc.hypercall
        self.card = self.group.cards[0]
        vm = SimpleNamespace(board=self.pc, memory=self.memory)
        self.vcpu: Any = SimpleNamespace(vm=vm, gpr=[0] * 16, block={}, cpl=0)

    def call(self, number: int, ebx: int = 0, ecx: int = 0, edx: int = 0) -> int:
        # The upper halves are not arguments.
        for register, value in ((RBX, ebx), (RCX, ecx), (RDX, edx)):
            self.vcpu.gpr[register] = value | 0xDEAD << 32
        self.vcpu.block[vmcb.RAX] = number
        hypercalls.hypercall(self.vcpu)
        assert self.vcpu.gpr[RAX] == self.vcpu.block[vmcb.RAX]
        return int(self.vcpu.gpr[RAX])

    def request(self, operation: int, sector: int, address: int = DATA, sectors: int = 1, flags: int = 0) -> int:
        """Submit one and wait: its status."""
        self.memory.write(REQUEST, struct.pack("<IIQQII", operation, flags, sector, address, sectors, 0))
        assert self.call(SUBMIT, 0, REQUEST) == 0
        advance(self.clock, HZ)
        return self.memory.read_u32(REQUEST + 28)

    @property
    def line(self) -> bool:
        return bool(self.pc.ioapic.levels >> 5 & 1)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_discovery(machine: Machine) -> None:
    leaf = hypercalls.hypervisor_leaf(machine.vcpu, 0x4000_0000)
    assert leaf is not None
    assert leaf[0] == 0x4000_0001
    assert struct.pack("<3I", *leaf[1:]) == b"TrapgateTrap"
    assert hypercalls.hypervisor_leaf(machine.vcpu, 0x4000_0001) == (0x1FF, 1, 1, 0)
    assert hypercalls.hypervisor_leaf(machine.vcpu, 0x4000_0002) is None
    assert machine.call(DISK) == 0
    assert [machine.vcpu.gpr[register] for register in (RBX, RCX, RDX)] == [SECTORS, 0, 0]
    assert machine.call(CARD) == 0
    assert struct.pack("<IH", machine.vcpu.gpr[RBX], machine.vcpu.gpr[RCX]) == MAC
    assert machine.pc.pci is None  # they sit on no bus


def test_results(machine: Machine) -> None:
    """No such hypercall, not at this privilege level, no such device, arguments that cannot be."""
    assert machine.call(9) == hypercalls.UNKNOWN
    for number in (DISK, SUBMIT, CARD, SEND, TAKE):
        assert machine.call(number, 1) == hypercalls.NO_DEVICE
    machine.vcpu.cpl = 3
    assert [machine.call(number) for number in (0, 1)] == [0, 0]
    assert {machine.call(number) for number in range(2, 9)} == {hypercalls.NOT_ALLOWED}
    machine.vcpu.cpl = 0
    assert machine.call(SUBMIT, 0, 0xFFFF0) == hypercalls.INVALID
    assert machine.call(SEND, 0, 0xFFFFF, 60) == hypercalls.INVALID
    assert machine.call(SEND, 0, DATA, 13) == hypercalls.INVALID
    machine.vcpu.vm.board.hypercall = None
    assert machine.call(EVENTS) == hypercalls.NO_DEVICE


def test_text(machine: Machine) -> None:
    machine.memory.write(DATA, b"hello")
    assert machine.call(TEXT, DATA, 5) == 0
    assert machine.console.data == b"hello"
    assert machine.call(TEXT, DATA, 4097) == hypercalls.INVALID
    assert machine.call(TEXT, 0xFFFFF, 2) == hypercalls.INVALID


def test_reads_and_writes(machine: Machine) -> None:
    assert machine.request(0, 3, sectors=2) == 1
    assert machine.memory.read(DATA, 1024) == bytes([3]) * 512 + bytes([4]) * 512
    machine.memory.write(DATA, b"x" * 512)
    assert machine.request(1, 63) == 1
    assert machine.medium.read(63 * 512, 512) == b"x" * 512
    assert machine.request(2, 0) == 1


@pytest.mark.parametrize(
    ("request_", "status", "fault"),
    [
        ((0, SECTORS, DATA, 1), 2, "address behind the last sector"),
        ((0, (1 << 64) - 1, DATA, 1), 2, "address behind the last sector"),
        ((0, 0, 0xFFE01, 1), 3, "data outside memory"),
        ((0, 0, (1 << 64) - 512, 1), 3, "data outside memory"),
        ((0, 0, DATA, 0), 3, "request of a bad form"),
        ((1, 0, DATA, 4097), 3, "request of a bad form"),
        ((3, 0, DATA, 1), 3, "request of a bad form"),
        ((0, 0, DATA, 1, 1), 3, "request of a bad form"),
    ],
)
def test_requests_that_cannot_be(machine: Machine, request_: tuple[int, ...], status: int, fault: str) -> None:
    assert machine.request(*request_) == status
    assert machine.pc.faults() == {"hypercall-disk0": {fault: 1}}


def test_requests_take_a_disks_time_one_after_the_other(machine: Machine) -> None:
    for number in range(2):
        machine.memory.write(REQUEST + 32 * number, struct.pack("<IIQQII", 0, 0, 0, DATA, 8, 0))
        assert machine.call(SUBMIT, 0, REQUEST + 32 * number) == 0
    microsecond = HZ // 1_000_000
    done = []
    for _ in range(53):
        advance(machine.clock, 10 * microsecond)
        done.append([machine.memory.read_u32(REQUEST + 28 + 32 * number) for number in range(2)])
    assert done.index([1, 0]) == 25  # 100 us, and 20 us for each sector
    assert done.index([1, 1]) == 51


def test_too_many_requests(machine: Machine) -> None:
    machine.memory.write(REQUEST, struct.pack("<IIQQII", 0, 0, 0, DATA, 1, 0))
    results = [machine.call(SUBMIT, 0, REQUEST) for _ in range(65)]
    assert results == [0] * 64 + [hypercalls.INVALID]


def test_frames(machine: Machine) -> None:
    machine.memory.write(DATA, frame(100, OTHER))
    assert machine.call(SEND, 0, DATA, 100) == 0
    assert machine.call(SEND, 0, DATA, 20) == 0
    assert machine.cable.frames == [frame(100, OTHER), frame(100, OTHER)[:20].ljust(60, b"\0")]
    machine.card.receive(frame(100))  # nobody has asked yet
    assert machine.call(TAKE, 0, DATA, 2048) == 0
    machine.card.receive(frame(100, OTHER))  # for another station
    machine.card.receive(frame(100, seed=1))
    machine.card.receive(frame(200, b"\xff" * 6))
    assert machine.call(TAKE, 0, DATA, 99) == hypercalls.INVALID
    assert machine.call(TAKE, 0, 0xFFFFF, 2048) == hypercalls.INVALID
    assert machine.call(TAKE, 0, DATA, 100) == 100
    assert machine.memory.read(DATA, 100) == frame(100, seed=1)
    assert machine.call(TAKE, 0, DATA, 2048) == 200
    assert machine.call(TAKE, 0, DATA, 2048) == 0
    assert machine.card.counts["frames_lost"] == machine.card.counts["frames_filtered"] == 1


def test_a_flood_is_held_back(machine: Machine) -> None:
    machine.call(TAKE, 0, DATA, 2048)
    for _ in range(100):
        machine.card.receive(frame(60))
    assert not machine.card.ready
    assert machine.card.counts["frames_lost"] == 36


def test_events_interrupt_when_they_are_wanted(machine: Machine) -> None:
    machine.call(TAKE, 0, DATA, 2048)
    machine.card.receive(frame(60))
    assert not machine.line
    assert machine.call(EVENTS, 3) == 2
    machine.request(0, 0)
    assert machine.line
    assert machine.call(EVENTS, 2) == 1
    assert not machine.line
    machine.request(0, 0)
    assert not machine.line
    assert machine.call(EVENTS, 0) == 1


ARGUMENTS = st.one_of(
    st.integers(0, 3), st.integers(0, 0xFFFF_FFFF), st.sampled_from([REQUEST, DATA, 0xFFFE0, 0xFFFFF, 0x10_0000])
)
CALLS = st.lists(st.tuples(st.integers(0, 9), ARGUMENTS, ARGUMENTS, ARGUMENTS), max_size=40)


@settings(max_examples=int(os.environ.get("TRAPGATE_DEVICE_FUZZ", "10")), deadline=None)
@given(CALLS, st.binary(max_size=64))
def test_anything(calls: list[tuple[int, int, int, int]], noise: bytes) -> None:
    """No exception, and a restored machine goes on as the original."""
    machine, copy = Machine(), Machine()
    machine.memory.write(REQUEST, noise)
    for number, ebx, ecx, edx in calls:
        assert 0 <= machine.call(number, ebx, ecx, edx) < 1 << 32
        machine.card.receive(frame(60 + edx % 100))
        advance(machine.clock, edx % 400_000)
    copy.clock.now = machine.clock.now
    copy.memory.view[:] = machine.memory.view
    copy.medium.data[:] = machine.medium.data
    snapshot = machine.pc.snapshot()
    copy.pc.restore(snapshot)
    assert copy.pc.snapshot() == snapshot
    for one in (machine, copy):
        advance(one.clock, HZ // 100)
    assert bytes(copy.memory.view) == bytes(machine.memory.view)
    assert copy.pc.snapshot() == machine.pc.snapshot()
