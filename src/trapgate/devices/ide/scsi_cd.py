"""The command set of a CD-ROM drive with a data CD of one track in it.

Sources: SPC-2 (T10/1236D revision 20) for INQUIRY, REQUEST SENSE and mode pages; MMC-3 (T10/1363D revision 10g) for the
rest.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable

from trapgate.machine.block import BlockBackend

BLOCK = 2048
#: Bytes that one READ can ask for: as many as an ATA disk gives with one command.
LARGEST_TRANSFER = 65536 * 512

# Sense keys and codes (SPC-2, 7.20).
NO_SENSE = 0x0
MEDIUM_ERROR = 0x3
ILLEGAL_REQUEST = 0x5
UNIT_ATTENTION = 0x6
UNRECOVERED_READ = (0x11, 0x00)
INVALID_COMMAND = (0x20, 0x00)
OUT_OF_RANGE = (0x21, 0x00)
INVALID_FIELD = (0x24, 0x00)
POWERED_ON = (0x29, 0x00)

TEST_UNIT_READY = 0x00
REQUEST_SENSE = 0x03
INQUIRY = 0x12
START_STOP = 0x1B
PREVENT_REMOVAL = 0x1E
READ_CAPACITY = 0x25
READ_10 = 0x28
SEEK = 0x2B
SYNCHRONIZE_CACHE = 0x35
READ_TOC = 0x43
GET_CONFIGURATION = 0x46
GET_EVENT_STATUS = 0x4A
READ_DISC_INFORMATION = 0x51
MODE_SENSE_10 = 0x5A
READ_12 = 0xA8
READ_CD = 0xBE
MECHANISM_STATUS = 0xBD

CD_ROM_DEVICE = 0x05
REMOVABLE = 0x80
DATA_TRACK = 0x14
LEAD_OUT = 0xAA
PROFILE_CD_ROM = 0x0008
PAGE_CAPABILITIES, PAGE_ERROR_RECOVERY, ALL_PAGES = 0x2A, 0x01, 0x3F
#: Sub-channel and header fields of READ CD; user data alone is given.
USER_DATA_ONLY = 0x10
#: Of a CD: 2 seconds at 75 frames before the first block.
LEAD_IN = 150


class CheckCondition(Exception):
    """A command that ends with sense data. Raised and caught within the drive."""

    def __init__(self, key: int, code: tuple[int, int]) -> None:
        super().__init__(f"sense {key:X}h, {code[0]:02X}h/{code[1]:02X}h")
        self.key, self.code = key, code


class CompactDisc:
    """Commands of 12 bytes on `medium`; `sense` is what REQUEST SENSE will say."""

    def __init__(self, medium: BlockBackend, faults: Counter[str]) -> None:
        self._medium = medium
        self._faults = faults
        self.blocks = medium.size // BLOCK
        self.sense = (UNIT_ATTENTION, *POWERED_ON)
        self._commands: dict[int, Callable[[bytes], bytes]] = {
            TEST_UNIT_READY: _nothing,
            REQUEST_SENSE: self._request_sense,
            INQUIRY: self._inquiry,
            START_STOP: _nothing,
            PREVENT_REMOVAL: _nothing,
            READ_CAPACITY: self._capacity,
            READ_10: lambda c: self._read(*struct.unpack_from(">IxH", c, 2)),
            READ_12: lambda c: self._read(*struct.unpack_from(">II", c, 2)),
            READ_CD: self._read_cd,
            SEEK: self._seek,
            SYNCHRONIZE_CACHE: _nothing,
            READ_TOC: self._toc,
            GET_CONFIGURATION: self._configuration,
            GET_EVENT_STATUS: self._event_status,
            READ_DISC_INFORMATION: self._disc_information,
            MODE_SENSE_10: self._mode_sense,
            MECHANISM_STATUS: lambda c: bytes(8)[: _length(c, 8)],
        }

    def reset(self) -> None:
        """Power on or a reset: the next command hears of it (SPC-2, 5.6)."""
        self.sense = (UNIT_ATTENTION, *POWERED_ON)

    def command(self, packet: bytes) -> bytes:
        """The data of the command in `packet`. Raises CheckCondition, BlockError."""
        function = self._commands.get(packet[0])
        if function is None:
            self._faults[f"packet command {packet[0]:02X}h"] += 1
            raise self.check(ILLEGAL_REQUEST, INVALID_COMMAND)
        if self.sense[0] == UNIT_ATTENTION and packet[0] not in (INQUIRY, REQUEST_SENSE, GET_EVENT_STATUS):
            sense, self.sense = self.sense, (NO_SENSE, 0, 0)
            raise self.check(sense[0], sense[1:])
        if packet[0] != REQUEST_SENSE and self.sense[0] != UNIT_ATTENTION:
            self.sense = (NO_SENSE, 0, 0)
        return function(packet)

    def check(self, key: int, code: tuple[int, int]) -> CheckCondition:
        """Keep sense data; the exception to raise."""
        # An attention that was told is not told again.
        self.sense = (key if key != UNIT_ATTENTION else NO_SENSE, *code)
        return CheckCondition(key, code)

    def _request_sense(self, packet: bytes) -> bytes:
        key, code, qualifier = self.sense
        self.sense = (NO_SENSE, 0, 0)
        return struct.pack(">BxBxxxxBxxxxBBxxxx", 0x70, key, 10, code, qualifier)[: packet[4]]

    def _inquiry(self, packet: bytes) -> bytes:
        if packet[1] & 3:
            raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
        data = struct.pack("<BBBBBxxx", CD_ROM_DEVICE, REMOVABLE, 0, 0x21, 31)
        data += b"TRAPGATE" + b"CD-ROM".ljust(16) + b"1.0 "
        return data[: int.from_bytes(packet[3:5], "big")]

    # The medium

    def _capacity(self, packet: bytes) -> bytes:
        return struct.pack(">II", max(self.blocks - 1, 0), BLOCK)

    def _read(self, first: int, count: int) -> bytes:
        if first + count > self.blocks:
            self._faults["address behind the last block"] += 1
            raise self.check(ILLEGAL_REQUEST, OUT_OF_RANGE)
        if count * BLOCK > LARGEST_TRANSFER:
            self._faults["transfer above 32 MB"] += 1
            raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
        return self._medium.read(first * BLOCK, count * BLOCK) if count else b""

    def _read_cd(self, packet: bytes) -> bytes:
        first, count = int.from_bytes(packet[2:6], "big"), int.from_bytes(packet[6:9], "big")
        if packet[9] & 0xF8 != USER_DATA_ONLY and count and packet[9]:
            raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
        return self._read(first, count) if packet[9] else b""

    def _seek(self, packet: bytes) -> bytes:
        if int.from_bytes(packet[2:6], "big") >= self.blocks:
            raise self.check(ILLEGAL_REQUEST, OUT_OF_RANGE)
        return b""

    # Descriptions

    def _address(self, block: int, as_time: bool) -> bytes:
        """A block's address: a number, or minute, second and frame."""
        if not as_time:
            return block.to_bytes(4, "big")
        seconds, frame = divmod(block + LEAD_IN, 75)
        return bytes((0, seconds // 60 & 0xFF, seconds % 60, frame))

    def _toc(self, packet: bytes) -> bytes:
        as_time, form = bool(packet[1] & 2), packet[2] & 0xF or packet[9] >> 6
        if form == 0:
            tracks = b"" if packet[6] > 1 else bytes((0, DATA_TRACK, 1, 0)) + self._address(0, as_time)
            if packet[6] not in (0, 1, LEAD_OUT):
                raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
            tracks += bytes((0, DATA_TRACK, LEAD_OUT, 0)) + self._address(self.blocks, as_time)
        elif form == 1:
            tracks = bytes((0, DATA_TRACK, 1, 0)) + self._address(0, as_time)
        elif form == 2:
            points = (
                (0xA0, bytes((0, 1, 0, 0))),
                (0xA1, bytes((0, 1, 0, 0))),
                (0xA2, self._address(self.blocks, True)),
            )
            tracks = b"".join(
                bytes((1, DATA_TRACK, 0, point, 0, 0, 0)) + place
                for point, place in (*points, (1, self._address(0, True)))
            )
        else:
            raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
        return (struct.pack(">HBB", len(tracks) + 2, 1, 1) + tracks)[: _length(packet, 7)]

    def _configuration(self, packet: bytes) -> bytes:
        """The features of a drive that reads CDs: the profile list, core, and nothing that can be turned off."""
        profiles = struct.pack(">HBBHBB", 0x0000, 0x03, 4, PROFILE_CD_ROM, 1, 0)
        core = struct.pack(">HBBI", 0x0001, 0x03, 4, 2)
        features = profiles + core
        return (struct.pack(">IHH", len(features) + 4, 0, PROFILE_CD_ROM) + features)[: _length(packet, 7)]

    def _event_status(self, packet: bytes) -> bytes:
        """Polled: no event, a medium is there (MMC-3, 6.7)."""
        if not packet[1] & 1:
            raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
        if packet[4] & 0x10:
            return struct.pack(">HBBBBxx", 6, 4, 0x10, 0, 2)[: _length(packet, 7)]
        return struct.pack(">HBB", 2, 0x80, 0x10)[: _length(packet, 7)]

    def _disc_information(self, packet: bytes) -> bytes:
        """A finished disc of one session and one track."""
        data = bytearray(34)
        data[0:7] = struct.pack(">HBBBBB", 32, 0x0E, 1, 1, 1, 1)
        data[7] = 0x20
        return bytes(data[: _length(packet, 7)])

    def _mode_sense(self, packet: bytes) -> bytes:
        page = packet[2] & 0x3F
        recovery = bytes((PAGE_ERROR_RECOVERY, 6)) + bytes(6)
        speed = 706
        capabilities = struct.pack(
            ">BBBBBBBBHHHHxxxx", PAGE_CAPABILITIES, 18, 0x03, 0, 0x71, 0x60, 0x29, 0, speed, 2, 512, speed
        )
        pages = {
            PAGE_ERROR_RECOVERY: recovery, PAGE_CAPABILITIES: capabilities, ALL_PAGES: recovery + capabilities,
        }.get(page)  # fmt: skip
        if pages is None:
            raise self.check(ILLEGAL_REQUEST, INVALID_FIELD)
        return (struct.pack(">HBxxxxx", len(pages) + 6, 0x01) + pages)[: _length(packet, 7)]


def _length(packet: bytes, offset: int) -> int:
    """The allocation length of a command, 16 bits."""
    return int.from_bytes(packet[offset : offset + 2], "big")


def _nothing(packet: bytes) -> bytes:
    return b""
