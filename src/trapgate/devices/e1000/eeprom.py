"""The card's configuration EEPROM: a 93C46 of 64 words on a Microwire bus, and the two ways to read it.

Sources: SDM 5.3 to 5.6 (contents, checksum), 13.4.3 (EECD), 13.4.4 (EERD); Microchip's 93C46 data sheet (commands).
"""

from __future__ import annotations

import struct
from typing import ClassVar

from trapgate.machine.device import PlainState

WORDS = 64
CHECKSUM = 0xBABA
LAST_WORD = WORDS - 1

# EECD (table 13-6).
SK, CS, DI, DO, FLASH_WRITE, REQUEST, GRANT, PRESENT = 1, 2, 4, 8, 3 << 4, 1 << 6, 1 << 7, 1 << 8
#: Writes to the flash, which is not there, stay disabled (01b).
FLASH_WRITE_DISABLED = 1 << 4
# EERD (table 13-7).
START, DONE, ADDRESS_SHIFT, DATA_SHIFT = 1, 1 << 4, 8, 16

#: A command's bits: start bit, two of operation, six of address.
COMMAND_BITS = 9
READ, WRITE, ERASE, EXTENDED = 2, 1, 3, 0
#: Of an extended operation's address, its two highest bits: disable and enable writing, all words.
DISABLE, WRITE_ALL, ERASE_ALL, ENABLE = 0, 1, 2, 3


def contents(mac: bytes) -> list[int]:
    """The words of a desktop card with this station address (table 5-2)."""
    words = [0] * WORDS
    words[0:3] = struct.unpack("<3H", mac)
    words[0x08:0x0A] = 0xFFFF, 0xFFFF  # no part number
    words[0x0A] = 0x4003  # initialization control 1: valid, with subsystem and device identifiers
    words[0x0B:0x0F] = 0x001E, 0x8086, 0x100E, 0x8086
    words[0x0F] = 0x3040  # initialization control 2: PAUSE in both directions, as the default
    words[LAST_WORD] = CHECKSUM - sum(words) & 0xFFFF
    return words


class Eeprom(PlainState):
    """The chip and the two registers in front of it. Words that software writes stay until the machine is gone."""

    STATE: ClassVar[tuple[str, ...]] = (
        "words", "pins", "requested", "received", "bits", "sending", "sent", "can_write", "operation", "address",
        "reading",
    )  # fmt: skip

    def __init__(self, mac: bytes) -> None:
        self.name = "e1000-eeprom"
        self.words = contents(mac)
        self.can_write = False
        self.reading = DONE
        self.reset()

    def reset(self) -> None:
        """The interface; the words stay."""
        self.pins = 0
        self.requested = 0
        self.reading = DONE
        self._deselect()

    def _deselect(self) -> None:
        #: Bits that came in since the chip was selected, and how many.
        self.received = self.bits = 0
        #: What goes out is in bit 16: 1 for a chip that is ready, 0 before the bits of a word. Bits that have gone.
        self.sending, self.sent = 1 << 16, 0
        self.operation, self.address = -1, 0

    # EECD

    def read_control(self) -> int:
        """EECD."""
        out = DO if self.pins & CS and self.sending >> 16 & 1 else 0
        granted = GRANT if self.requested else 0
        return self.pins | out | FLASH_WRITE_DISABLED | self.requested | granted | PRESENT

    def write_control(self, value: int) -> None:
        """EECD: the pins of the chip, moved by software that has asked for them (13.4.3)."""
        self.requested = value & REQUEST
        if not self.requested:
            value = 0
        before, self.pins = self.pins, value & (SK | CS | DI)
        if not self.pins & CS:
            if before & CS:
                self._finish()
            self._deselect()
        elif self.pins & SK and not before & SK:
            self._clock(bool(self.pins & DI))

    def _clock(self, bit: bool) -> None:
        """A rising edge of the clock while selected."""
        if self.operation < 0:
            if self.bits or bit:  # zeros before the start bit are nothing
                self.received, self.bits = self.received << 1 | bit, self.bits + 1
            if self.bits == COMMAND_BITS:
                self.operation, self.address = self.received >> 6 & 3, self.received & 0x3F
                self.received = self.bits = 0
                if self.operation == READ:
                    self.sending = self.words[self.address]  # its bit 16 is the 0 that goes first
        elif self.operation == READ:
            self.sending, self.sent = self.sending << 1 & 0x1_FFFF, self.sent + 1
            if self.sent == 16:
                # The next word follows: the bit before it is the last of this one.
                self.address = (self.address + 1) % WORDS
                self.sending = self.sending & 1 << 16 | self.words[self.address]
                self.sent = 0
        else:
            self.received, self.bits = (self.received << 1 | bit) & 0xFFFF, self.bits + 1

    def _finish(self) -> None:
        """CS goes down: a write or an erasure is carried out, and takes no time."""
        whole = self.bits >= 16
        if self.operation == EXTENDED:
            kind = self.address >> 4
            if kind in (ENABLE, DISABLE):
                self.can_write = kind == ENABLE
            elif self.can_write and (kind == ERASE_ALL or whole):
                self.words = [self.received if kind == WRITE_ALL else 0xFFFF] * WORDS
        elif self.can_write and self.operation == ERASE:
            self.words[self.address] = 0xFFFF
        elif self.can_write and self.operation == WRITE and whole:
            self.words[self.address] = self.received

    # EERD

    def read_word(self) -> int:
        """EERD."""
        return self.reading

    def write_word(self, value: int) -> None:
        """EERD: START reads a word at once."""
        address = value >> ADDRESS_SHIFT & 0xFF
        if value & START:
            self.reading = self.words[address % WORDS] << DATA_SHIFT | address << ADDRESS_SHIFT | DONE

    @property
    def mac(self) -> bytes:
        """The station address that a reset loads."""
        return struct.pack("<3H", *self.words[0:3])
