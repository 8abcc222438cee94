"""The virtio console: input, several ports, its control queues (virtio 1.2, 5.3), and drivers that break the rules."""

from __future__ import annotations

import struct

from trapgate.devices.virtio.console import ENOUGH_INPUT, MOST_INPUT, VirtioConsole, VirtioPort
from trapgate.machine.console import MemoryConsole
from trapgate.machine.memory import PhysicalMemory

VERSION_1, MULTIPORT = 1 << 32, 1 << 1
NEEDS_RESET = 0x40
READY, ADD, PORT_READY, CONSOLE_PORT, OPEN, NAME = 0, 1, 3, 4, 6, 7


class Guest:
    """A driver with one page for each queue, and 16 buffers of `length` bytes."""

    def __init__(self, *ports: VirtioPort, features: int = VERSION_1, length: int = 64) -> None:
        self.memory = PhysicalMemory(1 << 20)
        self.outputs = [MemoryConsole() for _ in range(3)]
        names = ports or (VirtioPort("", self.outputs[0]),)
        self.device = VirtioConsole("virtio-console", self.memory, names)
        self.device.driver_features = features
        self.length = length
        self.device.set_status(11)
        assert self.device.status == 11
        self.device.set_status(15)
        for number, queue in enumerate(self.device.queues):
            base = 0x1_0000 * (number + 1)
            queue.size, queue.enabled = 16, True
            queue.descriptors, queue.driver, queue.device = base, base + 0x1000, base + 0x2000
        self.seen = [0] * len(self.device.queues)

    def offer(self, queue: int, data: bytes | None = None, count: int = 1) -> None:
        """Buffers for what the device writes, or one with `data`."""
        ring = self.device.queues[queue]
        for _ in range(count):
            index = self.memory.read_u16(ring.driver + 2)
            place = ring.descriptors + 0x4000 + 0x100 * (index % 16)
            flags, length = (2, self.length) if data is None else (0, len(data))
            self.memory.write(place, bytes(self.length) if data is None else data)
            entry = struct.pack("<QIHH", place, length, flags, 0)
            self.memory.write(ring.descriptors + 16 * (index % 16), entry)
            self.memory.write_u16(ring.driver + 4 + 2 * (index % 16), index % 16)
            self.memory.write_u16(ring.driver + 2, index + 1)
        self.device.notify(queue)

    def taken(self, queue: int) -> list[bytes]:
        """What the device has put into buffers since the last look."""
        ring = self.device.queues[queue]
        found = []
        while self.seen[queue] != self.memory.read_u16(ring.device + 2):
            entry = self.memory.read(ring.device + 4 + 8 * (self.seen[queue] % 16), 8)
            head, length = struct.unpack("<II", entry)
            found.append(self.memory.read(ring.descriptors + 0x4000 + 0x100 * head, length))
            self.seen[queue] += 1
        return found

    def control(self, port: int, event: int, value: int = 1) -> None:
        self.offer(3, struct.pack("<IHH", port, event, value))


def test_input_goes_into_the_buffers_that_wait() -> None:
    guest = Guest(length=4)
    guest.offer(0, count=2)
    port = guest.device.ports[0]
    assert port.wants_input()
    port.receive(b"hello")
    assert guest.taken(0) == [b"hell", b"o"]
    port.receive(b"later")
    assert guest.taken(0) == []
    guest.offer(0, count=3)
    assert guest.taken(0) == [b"late", b"r"]
    assert guest.device.counts["bytes_received"] == 10


def test_a_plain_console_has_two_queues_and_no_control() -> None:
    guest = Guest()
    assert (len(guest.device.queues), guest.device.features & MULTIPORT) == (2, 0)
    guest.offer(1, b"out")
    assert guest.outputs[0].data == b"out"


def test_what_nobody_takes_is_bounded() -> None:
    guest = Guest()
    port = guest.device.ports[0]
    port.receive(bytes(ENOUGH_INPUT))
    assert not port.wants_input()
    port.receive(bytes(MOST_INPUT))
    assert len(guest.device.pending[0]) == MOST_INPUT
    assert guest.device.faults == {"input that nobody takes": 1}


def three() -> Guest:
    outputs = [MemoryConsole() for _ in range(3)]
    guest = Guest(
        VirtioPort("", outputs[0]), VirtioPort("org.example", outputs[1], is_console=False), VirtioPort("", outputs[2]),
        features=VERSION_1 | MULTIPORT,
    )  # fmt: skip
    guest.outputs = outputs
    return guest


def test_ports_are_introduced_in_answer_to_the_driver() -> None:
    guest = three()
    assert struct.unpack("<HHII", guest.device.config) == (0, 0, 3, 0)
    assert len(guest.device.queues) == 8
    guest.offer(2, count=12)
    guest.control(0, READY)
    assert guest.taken(2) == [struct.pack("<IHH", n, ADD, 1) for n in range(3)]
    guest.control(1, PORT_READY)
    assert guest.taken(2) == [struct.pack("<IHH", 1, NAME, 1) + b"org.example\0", struct.pack("<IHH", 1, OPEN, 1)]
    guest.control(2, PORT_READY)
    assert guest.taken(2) == [struct.pack("<IHH", 2, CONSOLE_PORT, 1), struct.pack("<IHH", 2, OPEN, 1)]


def test_each_port_has_its_own_queues() -> None:
    guest = three()
    guest.offer(4)
    guest.offer(7, b"third")
    guest.offer(5, b"second")
    assert [console.data for console in guest.outputs] == [b"", b"second", b"third"]
    second = guest.device.ports[1]
    assert not second.wants_input()
    guest.control(1, OPEN)
    assert second.wants_input()
    second.receive(b"in")
    assert guest.taken(4) == [b"in"]
    guest.control(1, OPEN, 0)
    assert not second.wants_input()


def test_messages_wait_for_buffers() -> None:
    guest = three()
    guest.control(0, READY)
    assert guest.taken(2) == []
    guest.offer(2, count=3)
    assert len(guest.taken(2)) == 3


def test_a_driver_that_breaks_the_rules() -> None:
    guest = three()
    for _ in range(100):
        guest.control(0, READY)
    guest.offer(3, b"short")
    guest.control(9, PORT_READY)
    guest.control(0, 77)
    assert guest.device.faults == {
        "control messages that nobody takes": 44, "short control message": 1, "control message for no port": 1,
        "unknown control message": 1,
    }  # fmt: skip
    assert not guest.device.status & NEEDS_RESET
    guest.length = 4
    guest.offer(2)
    assert guest.device.status & NEEDS_RESET
    assert guest.device.faults["buffer too short for a control message"] == 1
    empty = Guest(length=0)
    empty.offer(0)
    empty.device.ports[0].receive(b"x")
    assert empty.device.faults == {"buffer for input without room": 1}


def test_a_snapshot_has_what_waits() -> None:
    first, second = three(), three()
    first.control(0, READY)
    first.control(1, OPEN)
    first.device.ports[1].receive(b"waiting")
    snapshot = first.device.snapshot()
    second.device.restore(snapshot)
    assert second.device.snapshot() == snapshot
    second.memory.write(0, first.memory.read(0, 1 << 20))
    second.seen = first.seen
    second.offer(4)
    second.offer(2, count=3)
    assert second.taken(4) == [b"waiting"]
    assert len(second.taken(2)) == 3
