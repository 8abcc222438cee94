"""Machines whose states are saved, and what is compared of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from trapgate.arch.cpuid import OPTERON_2007
from trapgate.boards.host import HostMachine
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.lab.guest import find_guest
from trapgate.lab.lockstep import memory_difference
from trapgate.lab.options import BARE, RunOptions
from trapgate.lab.processor_state import read_state, read_tlb
from trapgate.lab.snapshots import Machine, put, read, take, write
from trapgate.lab.snapshots.machine import processor_of
from trapgate.lab.statistics import read_statistics, read_virtual_statistics
from trapgate.lab.virtual import host_memory
from trapgate.machine.console import MemoryConsole
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

MEMORY = 32 << 20
ALL = (BARE, *TECHNIQUES)


class Made(NamedTuple):
    """A machine and its console."""

    machine: Machine
    console: MemoryConsole

    @property
    def instructions(self) -> int:
        if isinstance(self.machine, BareMachine):
            return self.machine.processor.instructions
        return self.machine.backend.instructions

    def run_to(self, instructions: int | None) -> bool:
        """Run to so many instructions since the start, or to the end; whether it has ended."""
        if isinstance(self.machine, BareMachine):
            count = None if instructions is None else instructions - self.instructions
            return self.machine.run(count).reason != "limit"
        return self.machine.run(instructions) != "paused"

    def counts(self) -> dict[str, object]:
        """All that a run's statistics say of the guest."""
        if isinstance(self.machine, BareMachine):
            return read_statistics(self.machine, 0).guest_counts()
        host = self.machine.backend
        assert isinstance(host, HostMachine)
        return read_virtual_statistics(host, self.machine, 0).guest_counts()


def make(
    handlers: HandlerStore,
    technique: str = BARE,
    memory: int = MEMORY,
    hot: str | None = None,
    board: PcConfig | None = None,
    model: str = "full",
) -> Made:
    """A machine without a guest."""
    console, board = MemoryConsole(), board or PcConfig()
    if technique == BARE:
        config = MachineConfig(memory_size=memory, hot=hot, board=board, model=model)
        return Made(BareMachine(config, console, handlers), console)
    host = HostMachine(OPTERON_2007, host_memory(memory), handlers, model=model)
    return Made(VirtualMachine(host, memory, OPTERON_2007, TECHNIQUES[technique], console, board), console)


def load(made: Made, options: RunOptions) -> Made:
    """Put a guest into it."""
    made.machine.load(find_guest(options, lambda *_: None).image)
    return made


def differences(first: Made, second: Made, memory: bool = True) -> list[str]:
    """What two machines differ in: processors with their TLBs, RAM, the board, the hypervisor."""
    a, b = first.machine, second.machine
    (one, ram), (other, other_ram) = processor_of(a), processor_of(b)
    lines = read_state(one).differences(read_state(other))
    if read_tlb(one) != read_tlb(other):
        lines.append("entries of the modelled TLB")
    if memory:
        lines += memory_difference(ram, other_ram)
        mine, theirs = take(a), take(b)
        lines += [name for name, part in mine.parts.items() if name != "processor" and part != theirs.parts[name]]
        lines += [
            f"disk {n}" for n, (x, y) in enumerate(zip(mine.media, theirs.media, strict=True)) if not _alike(x, y)
        ]
    return lines


def _alike(a: object, b: object) -> bool:
    clusters = [{number: data for number, (_, data) in getattr(m, "clusters", {}).items()} for m in (a, b)]
    return clusters[0] == clusters[1]


class Chain(NamedTuple):
    """What came of a run that was saved and loaded many times: its console, and the counts in the end."""

    console: bytes
    counts: dict[str, object]
    loads: int


def run_chain(
    make_one: Callable[[int], Made],
    first: Made,
    points: Iterable[int],
    beside: Made | None = None,
    file: Path | None = None,
    every: int = 1,
) -> Chain:
    """Run `first` to its end, on another machine from each of `points` (instructions) on.

    States go through `file` if it is given. At each point the machine is compared with one `beside`, which is only
    stopped there; their memories at one of `every`.
    """
    current, console, loads = first, b"", 0
    for point in points:
        if point <= current.instructions:
            continue
        if current.run_to(point):
            break
        state = take(current.machine)
        if file is not None:
            write(state, file)
            state = read(file)
        console += bytes(current.console.data)
        following = make_one(loads)
        put(following.machine, state)
        if beside is not None:
            assert not beside.run_to(point)
            found = differences(beside, following, memory=loads % every == 0)
            assert not found, f"after load {loads + 1}, at {following.instructions} instructions: {found}"
        current, loads = following, loads + 1
        del following, state
        gc.collect()
    current.run_to(None)
    console += bytes(current.console.data)
    if beside is not None:
        beside.run_to(None)
        assert bytes(beside.console.data) == console
    return Chain(console, current.counts(), loads)
