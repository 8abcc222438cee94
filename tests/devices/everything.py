"""A PC with every device that there is, and a guest that does anything at all to one of them.

New devices of the board take part by themselves: what is fuzzed is found on the bus and on PCI.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import DiskConfig, FolderConfig, NicConfig
from trapgate.devices.disks.memory import MemoryMedium
from trapgate.devices.plan9.folder import Folder
from trapgate.devices.virtio.console import VirtioPort
from trapgate.devices.virtio.device import VirtioDevice
from trapgate.firmware.fw_cfg import FIRST_PORT, PORT_COUNT, FwCfg
from trapgate.firmware.pci_setup import set_up_pci
from trapgate.machine.bus import UNMAPPED
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.errors import UnimplementedDevice
from trapgate.machine.memory import PhysicalMemory
from trapgate.machine.network import LONGEST, NoLink

from .pci_world import pattern
from .support import HZ, Pins

MEMORY = 4 << 20
#: What a device may count by name; the guest chooses none of the names.
MOST_NAMES = 400
#: Events in one step of time: a guest may set timers that fire all the time.
MOST_EVENTS = 300
#: Operations between two looks at which ports a device has.
LOOK_AT_PORTS = 1000
RINGS = 0x10_0000
#: Bytes from one queue's ring to the next.
STRIDE = 0x4000
BUFFERS = 0x30_0000


def config(folder: Path) -> PcConfig:
    """Everything. What a later board has besides is added by the names of its options."""
    known = {field.name for field in fields(PcConfig)}
    options: dict[str, Any] = {
        "disks": (
            DiskConfig(MemoryMedium(pattern(2048 * 512)), "ide"),
            DiskConfig(MemoryMedium(pattern(64 * 2048, 2), read_only=True), "ide", is_cd=True),
            DiskConfig(MemoryMedium(pattern(2048 * 512, 3)), "virtio"),
            DiskConfig(MemoryMedium(pattern(2048 * 512, 4)), "virtio-mmio"),
        ),
        "devices": ("virtio-rng-pci", "virtio-serial-pci", "virtio-rng-device", "virtio-serial-device"),
        "serial2": MemoryConsole(),
        "parallel": MemoryConsole(),
        "virtio_ports": (VirtioPort("", MemoryConsole()), VirtioPort("stream", MemoryConsole(), is_console=False)),
        "folders": (FolderConfig("host", Folder(folder)),),
    }
    if "nics" in known:
        from trapgate.boards.pci import NIC_MODELS

        options["nics"] = tuple(
            NicConfig(model, bytes((2, 0, 0, 0, 0, number)), NoLink())  # type: ignore[arg-type]
            for number, model in enumerate(NIC_MODELS)
        )
    if "display" in known:
        options["display"] = True
    return PcConfig(**options)


class Everything:
    """The board, set up as firmware does. `seed` decides what happens to it."""

    def __init__(self, folder: Path, seed: int, now: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.clock = Clock(HZ)
        self.clock.now = now
        self.memory = PhysicalMemory(MEMORY)
        self.control = RunControl()
        self.pc = Pc(self.memory, self.clock, self.control, Pins(), MemoryConsole(), config(folder))
        self.bus = self.pc.bus
        self.fw_cfg = FwCfg(self.memory)
        self.bus.map_ports(FIRST_PORT, PORT_COUNT, self.fw_cfg)
        set_up_pci(self.bus)
        assert self.pc.pci is not None
        for place in range(256):
            function = self.pc.pci.bus.find(place)
            if function is not None:
                function.write_config(4, 2, 7)
        self.chance = random.Random(seed)
        self._steps = self._next_look = 0
        self._found: dict[str, list[int]] = {}
        self._targets = self.targets()

    def virtio(self) -> list[VirtioDevice]:
        """Every virtio device, whatever it is behind."""
        assert self.pc.pci is not None
        return [*(function.device for function in self.pc.pci.virtio), *self.pc.virtio_mmio.devices]

    def targets(self) -> list[str]:
        """Names of all devices: on ports, in memory, in PCI's slots."""
        assert self.pc.pci is not None
        names = {slot.name for slot in self.bus._ports} | {slot.name for slot in self.bus._memory_slots}
        return sorted((names | {function.name for function in self.pc.pci.bus.functions()}) - {UNMAPPED})

    # What a guest may write

    def word(self) -> int:
        """A value for a register."""
        chance = self.chance
        return chance.choice(
            (
                chance.getrandbits(32), 1 << chance.randrange(32), chance.randrange(256), chance.randrange(16),
                chance.randrange(MEMORY) & ~0xFFF, self.address() & 0xFFFF_FFFF, 0, 0xFFFF_FFFF, 0xFF,
            )
        )  # fmt: skip

    def address(self) -> int:
        """A guest-physical address: of RAM, near its end, outside."""
        chance = self.chance
        return chance.choice(
            (
                chance.randrange(MEMORY), BUFFERS + chance.randrange(16) * 0x1000, MEMORY - chance.randrange(1, 32),
                BUFFERS + chance.randrange(0x1000), chance.choice((MEMORY, 0xFEE0_0000, 0xFE00_0000, 0xFFFF_FFFC)),
                chance.getrandbits(64),
            )
        )  # fmt: skip

    def length(self) -> int:
        """A length of a buffer."""
        chance = self.chance
        usual = (0, 1, 8, 12, 16, 21, 60, 512, 513, 1514, 2048, 4096, 65536)
        return chance.choice((chance.choice(usual), chance.choice(usual), chance.getrandbits(chance.randrange(33))))

    def bytes(self) -> bytes:
        """What may lie in a buffer: a request's head, a message, noise."""
        chance = self.chance
        kind = chance.randrange(6)
        if kind == 0:
            return struct.pack("<IIQ", chance.choice((0, 1, 4, 8, chance.getrandbits(32))), 0, chance.randrange(2100))
        if kind == 1:
            size = chance.choice((7, 11, 19, 23, 40, chance.getrandbits(16)))
            return struct.pack("<IBHI", size, chance.randrange(130), 1, chance.randrange(4)) + chance.randbytes(40)
        if kind == 2:
            return struct.pack("<IHH", chance.randrange(3), chance.randrange(9), chance.randrange(2))
        if kind == 3:
            return struct.pack("<QIHH", self.address(), self.length() & 0xFFFF_FFFF, chance.randrange(8), 1) * 3
        if kind == 4:
            return struct.pack("<QHBBHH", self.address(), chance.getrandbits(14), 0, chance.getrandbits(8), 0, 0) * 8
        return chance.randbytes(chance.randrange(1, 100))

    # What a guest does

    def step(self, target: str) -> object:
        """One operation, most often on `target`; what the guest sees of it."""
        chance = self.chance
        kind = chance.randrange(100)
        self._steps += 1
        try:
            if kind < 70:
                return self._access(target)
            if kind < 74:
                return self._access(chance.choice(self._targets))
            if kind < 80:
                self.pass_time(chance.choice((0, 100, 20_000, 1_000_000, 10_000_000)))
            elif kind < 84:
                data = self.bytes()
                self.memory.write(chance.randrange(MEMORY - len(data)), data)
            elif kind < 86:
                self._configure()
            elif kind < 97:
                self._ring(target)
            elif kind < 98:
                self._input()
            else:
                return self.pc.acknowledge()
        except UnimplementedDevice as error:
            # The documented end of a run: the device says so, and does nothing.
            return str(error)
        return None

    def _access(self, target: str) -> int | None:
        chance = self.chance
        ports = self._ports(target)
        windows = [slot for slot in self.bus._memory_slots if slot.name == target]
        if not ports and not windows:
            return self._config_access(target)
        is_read = chance.random() < 0.4
        if ports and (not windows or chance.random() < 0.5):
            port, width = chance.choice(ports), chance.choice((1, 1, 2, 4))
            if is_read:
                return self.bus.read_port(port, width)
            self.bus.write_port(port, width, self.word() & (1 << 8 * width) - 1)
            return None
        slot = chance.choice(windows)
        # Registers are at the beginning more often than anywhere else.
        reach = chance.choice((0x80, 0x400, slot.size))
        offset = chance.randrange(min(reach, slot.size)) & chance.choice((~3, ~3, ~0))
        width = chance.choice((4, 4, 4, 1, 2, 8))
        if is_read:
            return self.bus.read_memory(slot.base + offset, width)
        value = self.word() | (self.word() << 32 if width == 8 else 0)
        self.bus.write_memory(slot.base + offset, width, value & (1 << 8 * width) - 1)
        return None

    def _ports(self, target: str) -> list[int]:
        """Ports of a device, as they were not long ago."""
        if self._steps >= self._next_look:
            self._next_look = self._steps + LOOK_AT_PORTS
            self._found = {}
            nothing = self.bus._unmapped
            for port, slot in enumerate(self.bus._ports):
                if slot is not nothing:
                    self._found.setdefault(slot.name, []).append(port)
        return self._found.get(target, [])

    def _config_access(self, target: str) -> int | None:
        """Configuration space of a function that decodes nothing now."""
        assert self.pc.pci is not None
        function = next((f for f in self.pc.pci.bus.functions() if f.name == target), None)
        if function is None:
            # A part of a function, such as its MSI-X table: its window comes back.
            set_up_pci(self.bus)
            return None
        offset, width = self.chance.randrange(256), self.chance.choice((1, 2, 4))
        offset &= ~(width - 1)
        if self.chance.random() < 0.5:
            return function.read_config(offset, width)
        function.write_config(offset, width, self.word() & (1 << 8 * width) - 1)
        return None

    def _configure(self) -> None:
        """Any function's registers; then most often addresses and decoding are put right again."""
        assert self.pc.pci is not None
        function = self.chance.choice(list(self.pc.pci.bus.functions()))
        offset = self.chance.choice((4, 0x10, 0x14, 0x18, 0x20, 0x24, self.chance.randrange(0x40, 0x100) & ~3))
        function.write_config(offset, 4, self.word())
        if self.chance.random() < 0.7:
            set_up_pci(self.bus)
        if self.chance.random() < 0.9:
            function.write_config(4, 2, 7)

    def _ring(self, target: str) -> None:
        """Something in a virtqueue: of `target` if it is such a device."""
        chance, memory = self.chance, self.memory
        devices = self.virtio()
        own = [device for device in devices if device.name == target]
        device = chance.choice(own or devices)
        if not device.is_live or chance.random() < 0.02:
            self._start(device)
        index = chance.randrange(len(device.queues))
        base = RINGS + STRIDE * (devices.index(device) * 8 + index) % (BUFFERS - RINGS)
        head = chance.randrange(8)
        for place in range(chance.randrange(1, 4)):
            flags = chance.choice((0, 1, 1, 2, 3, 3, 4, chance.getrandbits(16)))
            following = (head + place + 1) % 8 if chance.random() < 0.9 else chance.getrandbits(16)
            where = BUFFERS + chance.randrange(64) * 0x1000 if chance.random() < 0.9 else self.address()
            entry = struct.pack("<QIHH", where, self.length() & 0xFFFF_FFFF, flags, following)
            memory.write(base + 16 * ((head + place) % 8), entry)
            if where < MEMORY - 0x1000:
                memory.write(where, self.bytes())
        available = memory.read_u16(base + 0x1002)
        memory.write_u16(
            base + 0x1004 + 2 * (available % 8), head if chance.random() < 0.95 else chance.getrandbits(16)
        )
        more = 1 if chance.random() < 0.95 else chance.getrandbits(16)
        memory.write_u16(base + 0x1002, available + more & 0xFFFF)
        device.notify(index)

    def _start(self, device: VirtioDevice) -> None:
        """Bring a device to life, with some of its features."""
        chance = self.chance
        device.set_status(0)
        some = device.features & chance.getrandbits(64) if chance.random() < 0.5 else device.features
        device.driver_features = some | 1 << 32
        device.set_status(11)
        for index, queue in enumerate(device.queues):
            base = RINGS + STRIDE * (self.virtio().index(device) * 8 + index) % (BUFFERS - RINGS)
            queue.size = 8
            queue.descriptors, queue.driver, queue.device = base, base + 0x1000, base + 0x2000
            self.memory.write(base + 0x1000, bytes(0x40))
            self.memory.write(base + 0x2000, bytes(0x80))
            queue.enabled = True
        device.set_status(15)

    def _input(self) -> None:
        """Something comes from outside."""
        chance = self.chance
        data = chance.randbytes(chance.randrange(1, 200))
        console = self.pc.virtio_console
        assert console is not None
        places = [self.pc.serial.receive, self.pc.serial2.receive, *(port.receive for port in console.ports)]
        cards = getattr(self.pc.pci, "cards", ())
        if cards and chance.random() < 0.6:
            card = chance.choice(cards)
            target = chance.choice((card.mac, b"\xff" * 6, chance.randbytes(6)))
            card.receive((target + chance.randbytes(chance.randrange(8, 2000)))[:LONGEST])
        else:
            chance.choice(places)(data)

    def pass_time(self, cycles: int) -> None:
        """Let time pass, with events at their cycles, unless they are too many: then they come late."""
        end = self.clock.now + cycles
        for _ in range(MOST_EVENTS):
            deadline = self.clock.deadline
            if deadline is None or deadline > end:
                break
            self.clock.now = max(self.clock.now, deadline)
            self.clock.run_due()
        self.clock.now = max(self.clock.now, end)

    # What must hold

    def check(self) -> None:
        """Nothing on the bus has taken RAM away, and what is counted has no names of the guest's."""
        for name, found in (*self.pc.counts().items(), *self.pc.faults().items()):
            assert len(found) < MOST_NAMES, (name, Counter(found).most_common(5))
        for slot in self.bus._memory_slots:
            assert not any(slot.base < ram.stop and ram.start < slot.base + slot.size for ram in self.memory.ranges())

    def copy(self) -> Everything:
        """Another board that goes on from a snapshot of this one."""
        other = Everything(self.folder, self.seed, self.clock.now)
        other.memory.view[:] = self.memory.view
        snapshot = self.pc.snapshot()
        check_plain(snapshot)
        other.pc.restore(snapshot)
        other.fw_cfg.restore(self.fw_cfg.snapshot())
        other._steps, other._next_look, other._found = self._steps, self._next_look, dict(self._found)
        assert other.pc.snapshot() == snapshot
        mine, theirs = config_media(self.pc), config_media(other.pc)
        for ours, copied in zip(mine, theirs, strict=True):
            copied.data[:] = ours.data
        other.chance.setstate(self.chance.getstate())
        return other


def config_media(pc: Pc) -> list[MemoryMedium]:
    """The disks of a board."""
    assert pc.pci is not None
    drives = [drive.medium for drive in pc.pci.ide.drives]
    behind = [function.device for function in pc.pci.virtio] + pc.virtio_mmio.devices
    found = [*drives, *(device.medium for device in behind if hasattr(device, "medium"))]
    return [medium for medium in found if isinstance(medium, MemoryMedium)]


def check_plain(value: object) -> None:
    """A snapshot has plain values alone."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int), key
            check_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item)
    else:
        assert value is None or isinstance(value, int | float | str | bytes), type(value)
