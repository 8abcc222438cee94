"""A virtio network card: frames of up to 9000 bytes of payload, mergeable receive buffers, filters, whole TCP packets.

What the driver puts into the transmit queue is sent at once, and then looked at every 50 us, without further
notifications, until nothing more comes: a burst takes one notification. A driver with event indices gets its buffers
back together, after 200 us: a burst takes one interrupt. Cables take no time.

Source: "Virtual I/O Device (VIRTIO) Version 1.2", 5.1.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from trapgate.devices.virtio import network_offload as offload
from trapgate.devices.virtio.device import RING_FEATURES, VirtioDevice
from trapgate.devices.virtio.queue import Chain, QueueFault, Virtqueue
from trapgate.machine.clock import Clock, Event
from trapgate.machine.device import Snapshot
from trapgate.machine.network import HEADER, LARGEST, LONGEST, SHORTEST, Link
from trapgate.machine.ram import Ram

RECEIVE, TRANSMIT, CONTROL = 0, 1, 2
# Features (5.1.3).
MTU, MAC, MERGE_BUFFERS, STATUS = 1 << 3, 1 << 5, 1 << 15, 1 << 16
CONTROL_QUEUE, CONTROL_RECEIVE, CONTROL_RECEIVE_EXTRA, CONTROL_MAC = 1 << 17, 1 << 18, 1 << 20, 1 << 23
FEATURES = MTU | MAC | MERGE_BUFFERS | STATUS | CONTROL_QUEUE | CONTROL_RECEIVE | CONTROL_RECEIVE_EXTRA | CONTROL_MAC
LINK_UP = 1
#: Bytes of struct virtio_net_hdr before each frame, without hash reports (5.1.6).
PACKET_HEADER = offload.PACKET_HEADER.size
#: Bytes of a receive buffer at least, where frames are not spread over several (5.1.6.3.1): those of a 1514-byte frame.
SMALLEST_BUFFER = PACKET_HEADER + HEADER + 1500
#: Bytes of a packet for which it is not worth while to look for its buffers the quick way.
SMALL = 2048
#: Buffers that must wait before a network gives the card a frame, where frames may be whole TCP packets.
LARGE_FRAME_BUFFERS = 48
#: The fields but the last of a frame without offloads; and the last, of one that takes one buffer.
PLAIN, ONE_BUFFER = bytes(10), b"\1\0"

# The control queue (5.1.6.5).
OK, ERROR = 0, 1
CLASS_RECEIVE, CLASS_MAC = 0, 1
SET_TABLE, SET_ADDRESS = 0, 1
#: Commands of CLASS_RECEIVE: the attribute that each switches.
MODES = ("promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast")
#: Of MODES, those that need CONTROL_RECEIVE_EXTRA.
EXTRA_MODES = range(2, 6)
#: Bytes of a command at most: tables of some thousand addresses.
LONGEST_COMMAND = 1 << 15
#: Addresses of each table; when a driver names more, the filter lets all of that kind in, as 5.1.6.5.2 allows.
TABLE_SIZE = 64
BROADCAST = b"\xff" * 6
MULTICAST_BIT = 1

TRANSMIT_WINDOW_MICROSECONDS = 50
#: Windows after which what was sent is given back, so that an interrupt stands for several frames; earlier when it is
#: 1/RETURNED_SHARE of the queue.
COALESCING_WINDOWS, RETURNED_SHARE = 4, 4


class VirtioNetwork(VirtioDevice):
    """A card with station address `mac`, plugged into `link`, for frames with `mtu` bytes of payload.

    `offloads`: the link takes TCP packets of up to 64 KB as one frame, and may give such.
    """

    device_id = 1
    class_code = 0x020000
    queue_count = 3

    STATE: ClassVar[tuple[str, ...]] = (
        *VirtioDevice.STATE, "mac", *MODES, "unicast", "multicast", "due", "is_sending", "sent", "return_at",
    )  # fmt: skip

    def __init__(
        self, name: str, memory: Ram, clock: Clock, mac: bytes, link: Link, mtu: int = 1500, offloads: bool = False
    ) -> None:
        super().__init__(name, memory)
        self.features = RING_FEATURES | FEATURES | (offload.FEATURES if offloads else 0)
        self._clock, self._link, self._mtu = clock, link, mtu
        self._window = clock.hz * TRANSMIT_WINDOW_MICROSECONDS // 1_000_000
        self._permanent_mac = mac
        self._event: Event | None = None
        self._forget()

    def _forget(self) -> None:
        """The state after a reset. Without a driver that sets filters everything comes in."""
        self.mac = self._permanent_mac
        self.promiscuous = True
        self.all_multicast = self.all_unicast = self.no_multicast = self.no_unicast = self.no_broadcast = False
        #: Addresses besides `mac`, for frames to one station and to many; None: so many that all are let in.
        self.unicast: list[bytes] | None = []
        self.multicast: list[bytes] | None = []
        #: The cycle at which the transmit queue is looked at again, if `is_sending`.
        self.due = 0
        self.is_sending = False
        #: Requests that have been sent and not been given back, and the cycle at which they are at the latest.
        self.sent: list[int] = []
        self.return_at = 0
        self._configure()

    def _configure(self) -> None:
        """Device configuration (5.1.4): address, status, pairs of queues, MTU."""
        self.config = struct.pack("<6sHHH", self.mac, LINK_UP, 1, self._mtu)

    def reset(self) -> None:
        """As after power-on."""
        self._cancel()
        self._forget()
        super().reset()

    def _cancel(self) -> None:
        if self._event is not None:
            self._clock.cancel(self._event)
            self._event = None

    def serve(self, index: int) -> None:
        """A queue has something: frames to send, or commands. Receive buffers wait. May raise QueueFault."""
        if index == TRANSMIT:
            self._send_waiting()
            if not self.is_sending:
                self.is_sending = True
                self.queues[TRANSMIT].want_notifications(False)
                self._look_later()
        elif index == CONTROL:
            self._control(self.queues[CONTROL])

    # Transmission

    def _look_later(self) -> None:
        self.due = self._clock.now + self._window
        self._event = self._clock.schedule(self.due, self._on_time)

    def _on_time(self) -> None:
        self._event = None
        self.is_sending = False
        if self.is_live:
            self.guarded(self._look_again)

    def _look_again(self) -> None:
        """More may have come without a notification."""
        if self._send_waiting() or self.sent:
            self.is_sending = True
            self._look_later()
        else:
            self.queues[TRANSMIT].want_notifications(True)

    def _send_waiting(self) -> int:
        """Send what is there; the number of requests. May raise QueueFault."""
        queue = self.queues[TRANSMIT]
        count, now = 0, self._clock.now
        try:
            for _ in range(queue.waiting()):
                chain = queue.next()
                self._send(queue, chain)
                if not self.sent:
                    self.return_at = now + COALESCING_WINDOWS * self._window
                self.sent.append(chain.head)
                count += 1
        finally:
            # A driver with event indices has no need of its buffers at once.
            if self.sent and (
                now >= self.return_at or not queue.event_index or len(self.sent) * RETURNED_SHARE >= queue.size
            ):
                done, self.sent = [(head, 0) for head in self.sent], []
                if queue.push_all(done):
                    self.on_used(queue)
        return count

    def _send(self, queue: Virtqueue, chain: Chain) -> None:
        length = chain.readable_length
        if not PACKET_HEADER + HEADER <= length <= PACKET_HEADER + LARGEST:
            self.faults["frame of a bad length"] += 1
            return
        try:
            frame = offload.finish_packet(queue.gather(chain, length), self.driver_features, LONGEST)
        except QueueFault as fault:
            # Its ring is in order: the driver has lost one frame.
            self.faults[fault.reason] += 1
            return
        self.counts["frames_sent"] += 1
        self.counts["bytes_sent"] += len(frame)
        self._link.send(frame if len(frame) >= SHORTEST else frame.ljust(SHORTEST, b"\0"))

    # Reception

    @property
    def ready(self) -> bool:
        """Whether the driver has given a buffer for a frame."""
        queue = self.queues[RECEIVE]
        if not self.is_live or not queue.enabled:
            return False
        try:
            waiting = queue.waiting()
            return waiting >= min(LARGE_FRAME_BUFFERS, queue.size // 2) if self.takes_large else waiting > 0
        except QueueFault:
            return True  # the next frame says what is wrong

    @property
    def takes_large(self) -> bool:
        """Whether a frame may be a whole TCP packet over IPv4, up to 64 KB."""
        wanted = offload.GUEST_TSO_4 | offload.GUEST_CHECKSUM
        return self.is_live and self.driver_features & wanted == wanted

    def receive(self, data: bytes) -> None:
        """A frame from the network."""
        if not self.is_live or not self.queues[RECEIVE].enabled:
            self.faults["frame without a driver"] += 1
        elif not HEADER <= len(data) <= (LARGEST if self.takes_large else LONGEST):
            self.faults["received frame of a bad length"] += 1
        elif not self.promiscuous and not self._wants(data[:6]):
            self.counts["frames_filtered"] += 1
        else:
            self.guarded(lambda: self._store(data))

    def _wants(self, destination: bytes) -> bool:
        """Whether the filters let a frame in (5.1.6.5.1, 5.1.6.5.2)."""
        if destination == BROADCAST:
            return not self.no_broadcast
        if destination[0] & MULTICAST_BIT:
            among = self.multicast is None or destination in self.multicast
            return not self.no_multicast and (among or self.all_multicast)
        among = self.unicast is None or destination in self.unicast or destination == self.mac
        return not self.no_unicast and (among or self.all_unicast)

    def _store(self, frame: bytes) -> None:
        """Put a frame into one buffer or, if that was agreed on, as many as it takes. May raise QueueFault."""
        queue, header = self.queues[RECEIVE], PLAIN
        if len(frame) > HEADER + self._mtu and self.takes_large:
            described = offload.describe_large(frame, self._mtu)
            if described is not None:
                header, frame = described
            elif len(frame) > LONGEST:
                self.faults["received frame of a bad length"] += 1
                return
        wanted = PACKET_HEADER + len(frame)
        if wanted > SMALL and self.driver_features & MERGE_BUFFERS:
            places = queue.room_for(wanted)
            if places and places[0][2] >= PACKET_HEADER:
                done = queue.fill(places, header + len(places).to_bytes(2, "little") + frame)
                self._received(queue, frame, done)
                return
        chain = queue.take()
        if chain is None:
            self.faults["no buffer for a frame"] += 1
            return
        room = chain.writable_length
        if room >= wanted:
            queue.scatter(chain, header + ONE_BUFFER + frame)
            done = [(chain.head, wanted)]
        elif not self.driver_features & MERGE_BUFFERS:
            queue.put_back(1)
            if room < SMALLEST_BUFFER:
                raise QueueFault("receive buffer that is too small")
            # The driver is right: somebody has sent more than it takes.
            self.faults["frame larger than a receive buffer"] += 1
            return
        else:
            lengths = self._collect(queue, chain, room, wanted)
            if not lengths:
                self.faults["no buffer for a frame"] += 1
                return
            done = self._spread(queue, lengths, header + len(lengths).to_bytes(2, "little") + frame)
        self._received(queue, frame, done)

    def _received(self, queue: Virtqueue, frame: bytes, done: list[tuple[int, int]]) -> None:
        self.counts["frames_received"] += 1
        self.counts["bytes_received"] += len(frame)
        if queue.push_all(done):
            self.on_used(queue)

    @staticmethod
    def _collect(queue: Virtqueue, first: Chain, room: int, wanted: int) -> list[tuple[Chain, int]]:
        """Buffers, each with what is to go into it, `wanted` bytes in all; `first`, with `room` for some, before all.

        None, with all of them there again, when there are too few. May raise QueueFault.
        """
        if room < PACKET_HEADER:
            queue.put_back(1)
            raise QueueFault("receive buffer that is too small")
        found = [(first, room)]
        for _ in range(queue.waiting()):
            chain = queue.next()
            length = min(chain.writable_length, wanted - room)
            found.append((chain, length))
            room += length
            if room == wanted:
                return found
        queue.put_back(len(found))
        return []

    @staticmethod
    def _spread(queue: Virtqueue, chains: list[tuple[Chain, int]], packet: bytes) -> list[tuple[int, int]]:
        """Write a frame with its header over buffers: their heads, and the bytes in each."""
        data, place = memoryview(packet), 0
        for chain, length in chains:
            queue.scatter(chain, data[place : place + length])
            place += length
        return [(chain.head, length) for chain, length in chains]

    # Control

    def _control(self, queue: Virtqueue) -> None:
        """Carry out commands. May raise QueueFault."""
        for chain in queue.pop_all():
            if not chain.writable_length:
                raise QueueFault("command without a place for its status")
            command = queue.gather(chain, LONGEST_COMMAND)
            fits = chain.readable_length <= LONGEST_COMMAND and len(command) >= 2
            status = OK if fits and self._carry_out(command[0], command[1], command[2:]) else ERROR
            self.counts["commands"] += 1
            if status == ERROR:
                self.faults["command that cannot be carried out"] += 1
            queue.scatter(chain, bytes((status,)))
            self.give_back(queue, chain.head, 1)

    def _carry_out(self, kind: int, command: int, data: bytes) -> bool:
        """Whether the command is one that there is, and was agreed on."""
        agreed = self.driver_features
        if kind == CLASS_RECEIVE and command < len(MODES) and len(data) == 1:
            if not agreed & (CONTROL_RECEIVE_EXTRA if command in EXTRA_MODES else CONTROL_RECEIVE):
                return False
            setattr(self, MODES[command], bool(data[0]))
            return True
        if kind == CLASS_MAC and command == SET_ADDRESS and agreed & CONTROL_MAC and len(data) == 6:
            self.mac = data
            self._configure()
            return True
        if kind == CLASS_MAC and command == SET_TABLE and agreed & CONTROL_RECEIVE:
            return self._set_tables(data)
        return False

    def _set_tables(self, data: bytes) -> bool:
        """Two tables, each a 32-bit number of entries and the addresses."""
        tables = []
        for _ in range(2):
            if len(data) < 4:
                return False
            count = int.from_bytes(data[:4], "little")
            if len(data) < 4 + 6 * count:
                return False
            tables.append([data[4 + 6 * n : 10 + 6 * n] for n in range(count)])
            data = data[4 + 6 * count :]
        if data:
            return False
        self.unicast, self.multicast = (table if len(table) <= TABLE_SIZE else None for table in tables)
        return True

    # Snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Put all of it back, and look at the transmit queue when that was to be."""
        super().restore(snapshot)
        self._cancel()
        if self.is_sending:
            self._event = self._clock.schedule(self.due, self._on_time)
