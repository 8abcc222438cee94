"""A virtio console: ports that are terminals of the guest (hvc0 and so on), or plain streams of bytes with names.

A console of one terminal has no control queues, as its driver needs none.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trapgate.devices.virtio.device import RING_FEATURES, VirtioDevice
from trapgate.devices.virtio.queue import QueueFault
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.device import Snapshot
from trapgate.machine.ram import Ram

MULTIPORT = 1 << 1
RECEIVE, TRANSMIT, CONTROL_RECEIVE, CONTROL_TRANSMIT = 0, 1, 2, 3
#: Bytes of one request; drivers send a page at most.
LARGEST_OUTPUT = 1 << 16
MOST_PORTS = 31
#: Bytes that have come for a port and that its driver has made no room for: no more are asked for, and none are kept.
ENOUGH_INPUT, MOST_INPUT = 4096, 1 << 16
#: Control messages that wait for buffers.
MOST_MESSAGES = 256
# 5.3.6.2: a message is port, event, value.
MESSAGE = struct.Struct("<IHH")
DEVICE_READY, PORT_ADD, PORT_READY, CONSOLE_PORT, PORT_OPEN, PORT_NAME = 0, 1, 3, 4, 6, 7


@dataclass(frozen=True, slots=True)
class VirtioPort:
    """What a port is: `output` gets what the guest sends."""

    name: str
    output: ConsoleBackend
    is_console: bool = True


class _Port:
    """One port of a console, as its other end sees it."""

    def __init__(self, console: VirtioConsole, number: int, port: VirtioPort) -> None:
        self.number = number
        self.name, self.output, self.is_console = port.name, port.output, port.is_console
        self.receive = partial(console.receive, number)
        self.wants_input = partial(console.wants_input, number)


class VirtioConsole(VirtioDevice):
    """Hands whole buffers over: one notification each, where a serial port takes an access for each byte."""

    device_id = 3
    class_code = 0x078000

    STATE: ClassVar[tuple[str, ...]] = (*VirtioDevice.STATE, "pending", "is_open", "messages")

    def __init__(self, name: str, memory: Ram, ports: Sequence[VirtioPort]) -> None:
        """`ports`: one to MOST_PORTS."""
        self.is_plain = len(ports) == 1 and ports[0].is_console and not ports[0].name
        self.queue_count = 2 if self.is_plain else 2 * len(ports) + 2
        super().__init__(name, memory)
        self.ports = [_Port(self, number, port) for number, port in enumerate(ports)]
        self.features = RING_FEATURES if self.is_plain else RING_FEATURES | MULTIPORT
        self.config = struct.pack("<HHII", 0, 0, 0 if self.is_plain else len(ports), 0)
        self._forget()

    def _forget(self) -> None:
        #: For each port: bytes that have come for it, and whether the guest has opened it.
        self.pending = [b""] * len(self.ports)
        self.is_open = [False] * len(self.ports)
        #: Control messages for the driver.
        self.messages: list[bytes] = []

    def reset(self) -> None:
        """What has come is gone."""
        super().reset()
        self._forget()

    @property
    def _uses_control(self) -> bool:
        return bool(self.driver_features & MULTIPORT)

    def _queue(self, port: int) -> int:
        """The number of a port's queue for input; that for output is the next (5.3.2)."""
        return 2 * port + 2 if port else 0

    def serve(self, index: int) -> None:
        """A queue was notified. May raise QueueFault."""
        if index in (CONTROL_RECEIVE, CONTROL_TRANSMIT) and not self.is_plain:
            if index == CONTROL_TRANSMIT:
                self._obey()
            self._tell()
            return
        port = index // 2 - 1 if index > TRANSMIT else 0
        if index % 2 == RECEIVE:
            self._fill(port)
        else:
            self._print(index, port)

    # Bytes

    def _print(self, index: int, port: int) -> None:
        """What the driver has sent."""
        queue = self.queues[index]
        for chain in queue.pop_all():
            if chain.readable_length > LARGEST_OUTPUT:
                raise QueueFault("output above 64 KB in one request")
            data = queue.gather(chain, chain.readable_length)
            self.counts["bytes"] += len(data)
            self.ports[port].output.write(data)
            self.give_back(queue, chain.head, 0)

    def wants_input(self, port: int) -> bool:
        """Whether the guest has the port open, and has taken what came before."""
        is_open = self.is_open[port] if self._uses_control else port == 0
        return (
            is_open and self.is_live and self.queues[self._queue(port)].enabled
            and len(self.pending[port]) < ENOUGH_INPUT
        )  # fmt: skip

    def receive(self, port: int, data: bytes) -> None:
        """Bytes have come for a port."""
        room = MOST_INPUT - len(self.pending[port])
        if len(data) > room:
            self.faults["input that nobody takes"] += 1
        self.pending[port] += data[:room]
        if self.is_live and self.queues[self._queue(port)].enabled:
            self.guarded(partial(self._fill, port))

    def _fill(self, port: int) -> None:
        """Put what has come into the driver's buffers. May raise QueueFault."""
        queue = self.queues[self._queue(port)]
        while self.pending[port]:
            chain = queue.pop()
            if chain is None:
                return
            data = self.pending[port][: chain.writable_length]
            if not data:
                raise QueueFault("buffer for input without room")
            queue.scatter(chain, data)
            self.pending[port] = self.pending[port][len(data) :]
            self.counts["bytes_received"] += len(data)
            self.give_back(queue, chain.head, len(data))

    # Control

    def _obey(self) -> None:
        """The driver's messages. May raise QueueFault."""
        queue = self.queues[CONTROL_TRANSMIT]
        for chain in queue.pop_all():
            data = queue.gather(chain, MESSAGE.size)
            if len(data) < MESSAGE.size:
                self.faults["short control message"] += 1
            else:
                self._take(*MESSAGE.unpack(data))
            self.give_back(queue, chain.head, 0)

    def _take(self, number: int, event: int, value: int) -> None:
        if event == DEVICE_READY:
            if value:
                for port in range(len(self.ports)):
                    self._send(port, PORT_ADD)
        elif number >= len(self.ports):
            self.faults["control message for no port"] += 1
        elif event == PORT_READY:
            if value:
                self._introduce(self.ports[number])
        elif event == PORT_OPEN:
            self.is_open[number] = bool(value)
        else:
            self.faults["unknown control message"] += 1

    def _introduce(self, port: _Port) -> None:
        """What a port is. The host's side counts as open always."""
        if port.is_console:
            self._send(port.number, CONSOLE_PORT)
        if port.name:
            self._send(port.number, PORT_NAME, port.name.encode() + b"\0")
        self._send(port.number, PORT_OPEN)

    def _send(self, port: int, event: int, more: bytes = b"") -> None:
        if len(self.messages) < MOST_MESSAGES:
            self.messages.append(MESSAGE.pack(port, event, 1) + more)
        else:
            self.faults["control messages that nobody takes"] += 1

    def _tell(self) -> None:
        """Put the messages into the driver's buffers. May raise QueueFault."""
        queue = self.queues[CONTROL_RECEIVE]
        while self.messages and queue.enabled:
            chain = queue.pop()
            if chain is None:
                return
            message = self.messages[0]
            if chain.writable_length < len(message):
                raise QueueFault("buffer too short for a control message")
            queue.scatter(chain, message)
            del self.messages[0]
            self.give_back(queue, chain.head, len(message))

    # Snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back."""
        super().restore(snapshot)
        assert len(self.pending) == len(self.ports)
