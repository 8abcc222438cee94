"""The embedded hypervisor: on the bare machine, and as a guest to which the hypervisor offers AMD-V."""

from __future__ import annotations

import re

import pytest

from trapgate import guests
from trapgate.arch.cpuid import PROFILES
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.multiboot import MultibootImage
from trapgate.machine.control import GuestExit
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

MEMORY = 32 << 20
PASSED, FAILED = GuestExit(1), GuestExit(3)
TRIPS = 10_000


class Console:
    """Keeps what the guest prints."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def write(self, data: bytes) -> None:
        self.bytes += data

    def lines(self) -> list[str]:
        return self.bytes.decode("ascii").splitlines()


def image() -> MultibootImage:
    return MultibootImage(guests.image("hypervisor"))


def on_bare(handlers: HandlerStore, profile: str = "opteron-2007") -> tuple[list[str], object]:
    console = Console()
    machine = BareMachine(MachineConfig(MEMORY, PROFILES[profile]), console, handlers)
    machine.load(image())
    machine.run()
    return console.lines(), machine.control.request


def in_virtual_machine(technique: str, handlers: HandlerStore) -> tuple[list[str], VirtualMachine]:
    console = Console()
    host = HostMachine(PROFILES["opteron-2007"], MEMORY + (16 << 20), handlers)
    vm = VirtualMachine(host, MEMORY, PROFILES["opteron-2007"], TECHNIQUES[technique], console)
    vm.load(image())
    vm.run()
    return console.lines(), vm


def without_cycles(lines: list[str]) -> list[str]:
    """What does not depend on time."""
    return [re.sub(r"\d+ cycles", "N cycles", line) for line in lines]


@pytest.fixture(scope="module")
def bare(handlers: HandlerStore) -> list[str]:
    """What it prints on the bare machine."""
    lines, request = on_bare(handlers)
    assert request == PASSED
    return lines


@pytest.fixture(scope="module")
def tagged(handlers: HandlerStore) -> tuple[list[str], VirtualMachine]:
    """What it prints under nested-tagged, and the machine afterwards."""
    return in_virtual_machine("nested-tagged", handlers)


def test_every_check_holds_on_the_bare_machine(bare: list[str]) -> None:
    assert [line for line in bare if "FAIL" in line] == []
    assert bare[-1] == "133 checks, 0 failed"


def test_every_check_holds_under_nested_paging(bare: list[str], handlers: HandlerStore) -> None:
    lines, vm = in_virtual_machine("nested", handlers)
    assert (without_cycles(lines), vm.control.request) == (without_cycles(bare), PASSED)


def test_the_counts_are_the_same_each_time(
    bare: list[str], tagged: tuple[list[str], VirtualMachine], handlers: HandlerStore
) -> None:
    lines, vm = tagged
    assert (without_cycles(lines), vm.control.request) == (without_cycles(bare), PASSED)
    again, other = in_virtual_machine("nested-tagged", handlers)
    assert again == lines
    assert other.vcpu.statistics == vm.vcpu.statistics


def test_a_round_trip_to_a_guests_guest_is_two_exits(tagged: tuple[list[str], VirtualMachine]) -> None:
    _, vm = tagged
    samples = {name: count.samples for name, count in vm.vcpu.statistics.by_name().items()}
    nested = vm.vcpu.nested
    assert nested.entries == nested.exits - 12, "VMRUN was refused 12 times"
    assert samples["vmrun"] == nested.exits + 2, "and twice it was none: EFER.SVME was clear; its address was no page's"
    # VMRUN leaves L1, VMMCALL leaves L2: nothing else in the loop does.
    assert TRIPS < samples["vmrun"] < TRIPS + 100
    assert TRIPS < samples["vmmcall"] < TRIPS + 100


def test_a_processor_without_nested_paging_says_so(handlers: HandlerStore) -> None:
    lines, request = on_bare(handlers, "opteron-2006")
    assert "nested paging: not on this processor" in lines
    assert [line for line in lines if "FAIL" in line] == []
    assert request == PASSED


@pytest.mark.parametrize("technique", ["shadow", "shadow-tagged", "software"])
def test_other_techniques_offer_no_amd_v(technique: str, handlers: HandlerStore) -> None:
    lines, vm = in_virtual_machine(technique, handlers)
    assert lines[1].endswith(" FAIL wanted 0000000000000004 got 0000000000000000")
    assert lines[2:] == ["1 checks, 1 failed"]
    assert vm.control.request == FAILED
