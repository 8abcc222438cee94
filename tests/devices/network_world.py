"""A virtio network card with a driver's three queues in guest memory, and a cable that keeps what is sent."""

from __future__ import annotations

import struct

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import NicConfig
from trapgate.devices.virtio import network as card
from trapgate.devices.virtio.network import VirtioNetwork
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole
from trapgate.machine.control import RunControl
from trapgate.machine.memory import PhysicalMemory

from .support import HZ, Pins, advance

VERSION_1, EVENT_INDEX, INDIRECT = 1 << 32, 1 << 29, 1 << 28
MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400aabbcc")
MULTICAST = bytes.fromhex("01005e000001")
MICROSECONDS = HZ // 1_000_000
WINDOW = 50 * MICROSECONDS
SIZE = 8
#: The card's place on the bus; its command register, in which it is let at memory.
SLOT, COMMAND, MASTER = 3, 4, 4
WRITE, NEXT = 2, 1


class Cable:
    """Keeps the frames that a card sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)


class Ring:
    """A driver's side of one queue: SIZE descriptors at `base`, its rings behind them, and its buffers."""

    def __init__(self, world: NetworkWorld, index: int) -> None:
        self.memory, self.queue = world.memory, world.card.queues[index]
        self.base, self.buffers = 0x10_0000 + index * 0x4_0000, 0x10_0000 + index * 0x4_0000 + 0x4000
        self.available, self.used = self.base + 0x1000, self.base + 0x2000
        self.next = self.seen = 0
        self.memory.write(self.available, bytes(4 + 2 * SIZE + 2))
        self.memory.write(self.used, bytes(4 + 8 * SIZE + 2))
        queue = self.queue
        queue.size, queue.descriptors, queue.driver, queue.device = SIZE, self.base, self.available, self.used
        queue.enabled = True

    def descriptor(self, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        self.memory.write(self.base + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def buffer(self, index: int) -> int:
        return self.buffers + index * 0x4000

    def offer(self, head: int) -> None:
        self.memory.write_u16(self.available + 4 + 2 * (self.next % SIZE), head)
        self.next = self.next + 1 & 0xFFFF
        self.memory.write_u16(self.available + 2, self.next)

    def offer_data(self, index: int, data: bytes) -> None:
        """A request that the device reads."""
        self.memory.write(self.buffer(index), data)
        self.descriptor(index, self.buffer(index), len(data), 0)
        self.offer(index)

    def offer_room(self, index: int, length: int) -> None:
        """A request that the device writes."""
        self.descriptor(index, self.buffer(index), length, WRITE)
        self.offer(index)

    def returned(self) -> list[tuple[int, int]]:
        """What the device has given back since the last call: heads and bytes written."""
        index = self.memory.read_u16(self.used + 2)
        found = []
        while self.seen != index:
            entry = self.memory.read(self.used + 4 + 8 * (self.seen % SIZE), 8)
            found.append(struct.unpack("<II", entry))
            self.seen = self.seen + 1 & 0xFFFF
        return found  # type: ignore[return-value]

    def received(self) -> list[bytes]:
        """What has come back in buffers: whole packets with their headers."""
        packets, done = [], self.returned()
        while done:
            head, length = done.pop(0)
            data = self.memory.read(self.buffer(head), length)
            for _ in range(int.from_bytes(data[10:12], "little") - 1):
                head, length = done.pop(0)
                data += self.memory.read(self.buffer(head), length)
            packets.append(data)
        return packets


class NetworkWorld:
    """A PC with a card; `features` are what the driver agrees to besides VERSION_1."""

    def __init__(self, features: int = 0, mtu: int = 1500, offloads: bool = False) -> None:
        self.clock, self.memory, self.cable = Clock(HZ), PhysicalMemory(4 << 20), Cable()
        nic = NicConfig("virtio", MAC, self.cable, mtu, offloads)
        self.pc = Pc(self.memory, self.clock, RunControl(), Pins(), MemoryConsole(), PcConfig(nics=(nic,)))
        assert self.pc.pci is not None
        self.pci = self.pc.pci
        found = self.pci.cards[0]
        assert isinstance(found, VirtioNetwork)
        self.card = found
        function = self.pci.bus.find(SLOT << 3)
        assert function is not None
        function.write_config(COMMAND, 2, MASTER)
        self.interrupts = 0
        found.on_used = lambda queue: self._interrupt()
        self.start(features)

    def start(self, features: int) -> None:
        """Reset to DRIVER_OK."""
        found = self.card
        for status in (0, 3):
            found.set_status(status)
        found.driver_features = VERSION_1 | features
        found.set_status(11)
        assert found.status == 11
        self.receive, self.transmit, self.control = (Ring(self, index) for index in range(3))
        found.set_status(15)

    def _interrupt(self) -> None:
        self.interrupts += 1

    def send(self, data: bytes, header: bytes = bytes(12), index: int = 0) -> None:
        """A packet of the driver's."""
        self.transmit.offer_data(index, header + data)
        self.card.notify(card.TRANSMIT)

    def command(self, kind: int, command: int, data: bytes) -> int:
        """The status of a command."""
        ring = self.control
        ring.memory.write(ring.buffer(0), bytes((kind, command)) + data)
        ring.memory.write_u8(ring.buffer(1), 0xFF)
        ring.descriptor(0, ring.buffer(0), 2 + len(data), NEXT, 1)
        ring.descriptor(1, ring.buffer(1), 1, WRITE)
        ring.offer(0)
        self.card.notify(card.CONTROL)
        return ring.memory.read_u8(ring.buffer(1))

    def wait(self, cycles: int) -> None:
        advance(self.clock, cycles)

    @property
    def faults(self) -> dict[str, int]:
        return self.pci.faults().get("net0", {})


def frame(payload: bytes = b"x" * 50, to: bytes = MAC, kind: int = 0x88B5) -> bytes:
    """A frame of a local experimental type."""
    return to + OTHER + kind.to_bytes(2, "big") + payload


def tcp_frame(payload: bytes, flags: int = 0x10, options: bytes = b"", source: bytes = OTHER) -> bytes:
    """A frame with a TCP packet over IPv4, its checksums right."""
    addresses = bytes((10, 0, 2, 2, 10, 0, 2, 15))
    tcp = struct.pack(">HHIIBBHHH", 1000, 2000, 1, 2, (20 + len(options)) << 2, flags, 64240, 0, 0) + options + payload
    pseudo = addresses + struct.pack(">BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 7, 0x4000, 64, 6, 0) + addresses
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    return MAC + source + b"\x08\x00" + ip + tcp


def checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for place in range(0, len(data), 2):
        total += int.from_bytes(data[place : place + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def is_right(packet: bytes) -> bool:
    """Whether both checksums of a TCP packet over IPv4 are right."""
    ip, tcp = packet[14:34], packet[34:]
    pseudo = ip[12:20] + struct.pack(">BBH", 0, 6, len(tcp))
    return checksum(ip) == 0 and checksum(pseudo + tcp) == 0
